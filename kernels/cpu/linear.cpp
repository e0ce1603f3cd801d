// Integer matrix product of activation codes and packed weight codes with the whole epilogue, for AVX512-VNNI.
//
// Weights come in panels of 64 outputs, byte [k / 4][output][k % 4], as vpdpbusd reads them. Codes of up to four bits are
// stored plus eight, two groups of four channels a byte, and unpacked once a panel into a buffer of the thread's own.
#include "epilogue.h"
#include "strassen.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

// Memory that a thread keeps from call to call: fresh pages would cost more than what is written to them.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  uint8_t* room(int64_t bytes) {
    if (bytes > bytes_) {
      std::free(memory_);
      memory_ = static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      bytes_ = bytes;
    }
    return memory_;
  }

 private:
  uint8_t* memory_ = nullptr;
  int64_t bytes_ = 0;
};

thread_local Scratch shared_scratch, own_scratch;  // of a call, of each of its threads

template <int kBits>
const int8_t* unpack_panel(const uint8_t* packed, int8_t* scratch, int64_t groups) {
  if (kBits == 8) return reinterpret_cast<const int8_t*>(packed);
  const __m512i low = _mm512_set1_epi8(15);
  for (int64_t g = 0; g < groups; g += 2) {
    for (int v = 0; v < 4; ++v) {
      const __m512i both = _mm512_loadu_si512(packed + (g / 2) * 256 + v * 64);
      _mm512_store_si512(scratch + g * 256 + v * 64, _mm512_and_si512(both, low));
      _mm512_store_si512(scratch + (g + 1) * 256 + v * 64, _mm512_and_si512(_mm512_srli_epi16(both, 4), low));
    }
  }
  return scratch;
}

template <int kM, bool kHalf>
void tile(const uint8_t* a, int64_t stride, const int8_t* panel, int64_t groups, const Epilogue& e, int64_t row,
          int64_t column, int64_t n, void* out) {
  __m512i acc[kM][4];
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = _mm512_setzero_si512();
  for (int64_t g = 0; g < groups; ++g) {
    const int8_t* b = panel + g * 256;
    const __m512i b0 = _mm512_loadu_si512(b), b1 = _mm512_loadu_si512(b + 64);
    const __m512i b2 = _mm512_loadu_si512(b + 128), b3 = _mm512_loadu_si512(b + 192);
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      int32_t four;
      std::memcpy(&four, a + i * stride + g * 4, 4);
      const __m512i x = _mm512_set1_epi32(four);
      acc[i][0] = _mm512_dpbusd_epi32(acc[i][0], x, b0);
      acc[i][1] = _mm512_dpbusd_epi32(acc[i][1], x, b1);
      acc[i][2] = _mm512_dpbusd_epi32(acc[i][2], x, b2);
      acc[i][3] = _mm512_dpbusd_epi32(acc[i][3], x, b3);
    }
  }
  alignas(64) int32_t sums[kM][kColumns];
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) {
    _mm512_store_si512(sums[i], acc[i][0]);
    _mm512_store_si512(sums[i] + 16, acc[i][1]);
    _mm512_store_si512(sums[i] + 32, acc[i][2]);
    _mm512_store_si512(sums[i] + 48, acc[i][3]);
  }
  finish<kM, kHalf>(sums[0], kColumns, e, row, column, n, out);
}

template <bool kHalf>
void tiles(const uint8_t* a, int64_t stride, const int8_t* panel, int64_t groups, const Epilogue& e, int64_t begin,
           int64_t end, int64_t column, int64_t n, void* out) {
  int64_t row = begin;
  for (; row + kRows <= end; row += kRows)
    tile<kRows, kHalf>(a + row * stride, stride, panel, groups, e, row, column, n, out);
  switch (end - row) {
    case 1: tile<1, kHalf>(a + row * stride, stride, panel, groups, e, row, column, n, out); break;
    case 2: tile<2, kHalf>(a + row * stride, stride, panel, groups, e, row, column, n, out); break;
    case 3: tile<3, kHalf>(a + row * stride, stride, panel, groups, e, row, column, n, out); break;
    case 4: tile<4, kHalf>(a + row * stride, stride, panel, groups, e, row, column, n, out); break;
    case 5: tile<5, kHalf>(a + row * stride, stride, panel, groups, e, row, column, n, out); break;
  }
}

// Outputs from panel `begin` on.
template <int kBits, bool kHalf>
void gemm(const uint8_t* a, const uint8_t* packed, const Epilogue& e, int64_t m, int64_t n, int64_t k, void* out,
          int64_t begin, int threads) {
  const int64_t panels = (n + kColumns - 1) / kColumns, groups = k / 4;
  const int64_t bytes = groups * 256 * kBits / 8;
#pragma omp parallel num_threads(threads)
  {
    int8_t* scratch = kBits == 8 ? nullptr : (int8_t*)own_scratch.room(groups * 256);
#pragma omp for schedule(dynamic)
    for (int64_t p = begin; p < panels; ++p) {
      const int8_t* panel = unpack_panel<kBits>(packed + p * bytes, scratch, groups);
      tiles<kHalf>(a, k, panel, groups, e, 0, m, p * kColumns, n, out);
    }
  }
}

// The same by Strassen's algorithm, for pairs of panels of four-bit weights; returns how many panels it did.
template <bool kHalf>
int64_t strassen_gemm(const uint8_t* a, const uint8_t* packed, const Epilogue& e, int64_t m, int64_t n, int64_t k,
                      void* out, int threads) {
  using namespace strassen;
  const int64_t pairs = (n + ::kColumns - 1) / ::kColumns / 2, panel = k / 8 * 256;
  const int64_t chunks = (k / 16 + kDepth - 1) / kDepth, most = (k / 64 + chunks - 1) / chunks * 4;
  const int64_t left = most * strassen::kRows + 64, right = most * strassen::kColumns + 64;  // not a multiple of a page
  const int64_t tiles = std::min(kBlock, (m + strassen::kRows - 1) / strassen::kRows);
  const int64_t turned_bytes = strassen::kRows * most * 16, start_bytes = kProducts * 32 * 4;
  const int64_t tile_bytes = strassen::kRows * strassen::kColumns * 4, sums_bytes = (chunks > 1 ? tiles : 1) * tile_bytes;
  uint8_t* rows = shared_scratch.room(tiles * chunks * kProducts * left);
#pragma omp parallel num_threads(threads)
  {
    uint8_t* turned = own_scratch.room(turned_bytes + kProducts * right + start_bytes + sums_bytes);
    uint8_t *columns = turned + turned_bytes, *starts = columns + kProducts * right;
    int32_t *start = (int32_t*)starts, *sums = (int32_t*)(starts + start_bytes);
    const auto size = [&](int64_t row) { return m - row > 32 ? 12 : m - row > 16 ? 8 : 4; };
    const auto depth = [&](int64_t c) { return std::min(most, k / 16 - c * most); };
    for (int64_t block = 0; block < m; block += tiles * strassen::kRows) {
      const int64_t here = std::min(tiles, (m - block + strassen::kRows - 1) / strassen::kRows);
#pragma omp for schedule(dynamic)
      for (int64_t i = 0; i < here * chunks; ++i) {
        const int64_t row = block + i / chunks * strassen::kRows, c = i % chunks;
        lay_rows(a + row * k + c * most * 16, k, depth(c), size(row), m - row, turned, rows + i * kProducts * left, left);
      }
#pragma omp for schedule(dynamic)
      for (int64_t pair = 0; pair < pairs; ++pair) {
        for (int64_t c = 0; c < chunks; ++c) {
          lay_columns(packed + pair * 2 * panel + c * most * 512, panel, depth(c), columns, right, start);
          for (int64_t t = 0; t < here; ++t) {
            const int64_t row = block + t * strassen::kRows;
            const uint8_t* from = rows + (t * chunks + c) * kProducts * left;
            int32_t* to = sums + (chunks > 1 ? t : 0) * strassen::kRows * strassen::kColumns;
            if (c == 0) std::memset(to, 0, tile_bytes);
            switch (size(row)) {
              case 12: multiply<12>(from, left, columns, right, start, depth(c), to); break;
              case 8: multiply<8>(from, left, columns, right, start, depth(c), to); break;
              default: multiply<4>(from, left, columns, right, start, depth(c), to);
            }
            if (c + 1 < chunks) continue;
            const int64_t count = std::min<int64_t>(strassen::kRows, m - row);
            for (int64_t h = 0; h < 2; ++h)
              finish_rows<kHalf>(to + h * 64, strassen::kColumns, e, row, count, pair * 128 + h * 64, n, out);
          }
        }
      }
    }
  }
  return pairs * 2;
}

// Eight times the sum of each row's codes; returns the largest code.
int row_offsets(const uint8_t* a, int64_t m, int64_t k, int32_t* offset, int threads) {
  int largest = 0;
#pragma omp parallel for num_threads(threads) reduction(max : largest)
  for (int64_t row = 0; row < m; ++row) {
    int32_t sum = 0;
    uint8_t most = 0;
    for (int64_t i = 0; i < k; ++i) sum += a[row * k + i], most = std::max(most, a[row * k + i]);
    offset[row] = 8 * sum;
    largest = std::max<int>(largest, most);
  }
  return largest;
}

}  // namespace

// codes [m, k] with k a multiple of 8; panels as above; out [m, n] in bfloat16 (half) or float32; bias, state_bias and
// branch may be null. The integers are exact, and without a branch the floating-point operations are the reference's in its
// order; the branch is added before the result is rounded.
extern "C" int64_t starquant_linear(const uint8_t* codes, const uint8_t* panels, const int32_t* zero, const float* scale,
                                 const float* weight_scale, const int32_t* column_sum, const float* bias,
                                 const int64_t* state, const float* state_bias, const uint16_t* branch,
                                 const uint16_t* image, void* out, int64_t m, int64_t n, int64_t k, int64_t bits,
                                 int64_t half, int64_t threads) {
  int32_t* offset = static_cast<int32_t*>(std::calloc(m ? m : 1, sizeof(int32_t)));
  const int largest = bits == 4 ? row_offsets(codes, m, k, offset, threads) : 255;
  const int64_t columns = (n + kColumns - 1) / kColumns * kColumns;
  const Epilogue e{zero, offset, scale, weight_scale, column_sum, bias, state_bias, state, branch, image, columns};
  const auto run = bits == 4 ? (half ? gemm<4, true> : gemm<4, false>) : (half ? gemm<8, true> : gemm<8, false>);
  int64_t done = 0;
  if (strassen::pays(m, n, k, largest))
    done = (half ? strassen_gemm<true> : strassen_gemm<false>)(codes, panels, e, m, n, k, out, threads);
  run(codes, panels, e, m, n, k, out, done, threads);
  std::free(offset);
  return 0;
}
