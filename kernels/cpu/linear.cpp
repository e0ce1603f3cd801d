// Integer matrix product of activation codes and packed weight codes with the whole epilogue, for AVX512-VNNI.
//
// Weights come in panels of 64 outputs, byte [k / 4][output][k % 4], as vpdpbusd reads them. Codes of up to four bits are
// stored plus eight, two groups of four channels a byte; a panel's first tile unpacks them into a buffer of the thread's own.
#include "epilogue.h"
#include "scratch.h"
#include "strassen.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

namespace {

thread_local Scratch shared_scratch, own_scratch;  // of a call, of each of its threads

// sums [kM, 64] of the tokens from `row` on. kUnpack: the panel's codes are unpacked on the way, into where later tiles read them.
template <int kM, bool kUnpack>
void tile(const Rows& r, const uint8_t* packed, int8_t* panel, int64_t row, int32_t* sums) {
  const uint8_t* a = r.codes + row * r.k;
  const int64_t stride = r.k, groups = r.k / 4;
  __m512i acc[kM][4];
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = _mm512_setzero_si512();
  for (int64_t g = 0; g < groups; ++g) {
    __m512i b[4];
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      int8_t* at = panel + g * 256 + v * 64;
      if (kUnpack) {
        const __m512i both = _mm512_loadu_si512(packed + g / 2 * 256 + v * 64);
        b[v] = _mm512_and_si512(_mm512_srl_epi16(both, _mm_cvtsi32_si128(g % 2 * 4)), _mm512_set1_epi8(15));
        _mm512_storeu_si512(at, b[v]);
      } else {
        b[v] = _mm512_loadu_si512(at);
      }
    }
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      int32_t four;
      std::memcpy(&four, a + i * stride + g * 4, 4);
      const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) acc[i][v] = _mm512_dpbusd_epi32(acc[i][v], x, b[v]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) _mm512_store_si512(sums + i * kColumns + v * 16, acc[i][v]);
  }
}

template <int kM>
void tile(const Rows& r, const uint8_t* packed, int8_t* panel, int64_t row, int32_t* sums) {
  (packed && row == 0 ? tile<kM, true> : tile<kM, false>)(r, packed, panel, row, sums);
}

// sums [48, 64] of the tokens of a block, as many as there are. packed: null if the panel needs no unpacking.
void tiles(const Rows& r, const uint8_t* packed, int8_t* panel, int64_t block, int32_t* sums) {
  const int64_t end = std::min(r.m, block + kBlockRows);
  for (int64_t row = block; row < end; row += kRows, sums += kRows * kColumns) {
    switch (end - row) {
      case 1: tile<1>(r, packed, panel, row, sums); break;
      case 2: tile<2>(r, packed, panel, row, sums); break;
      case 3: tile<3>(r, packed, panel, row, sums); break;
      case 4: tile<4>(r, packed, panel, row, sums); break;
      case 5: tile<5>(r, packed, panel, row, sums); break;
      default: tile<kRows>(r, packed, panel, row, sums);
    }
  }
}

// Some outputs of one of several linears.
struct Part {
  const Linear* linear;
  int64_t panel;
};

// A panel each.
template <int kBits, bool kHalf>
void gemm(const Rows& r, const std::vector<Part>& parts, int threads) {
  const int64_t groups = r.k / 4, bytes = groups * 256 * kBits / 8;
#pragma omp parallel num_threads(threads)
  {
    int8_t* scratch = kBits == 8 ? nullptr : (int8_t*)own_scratch.room(groups * 256);
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < parts.size(); ++i) {
      const auto [linear, p] = parts[i];
      const uint8_t* packed = linear->panels + p * bytes;
      for (int64_t block = 0; block < r.m; block += kBlockRows) {
        alignas(64) int32_t sums[kBlockRows * kColumns];
        if (kBits == 8)
          tiles(r, nullptr, (int8_t*)packed, block, sums);
        else
          tiles(r, packed, scratch, block, sums);
        finish_rows<kHalf>(sums, kColumns, r, *linear, block, p * kColumns);
      }
    }
  }
}

// The same by Strassen's algorithm, for weights of four bits and two panels each.
template <bool kHalf>
void strassen_gemm(const Rows& r, const std::vector<Part>& parts, int threads) {
  using namespace strassen;
  static_assert(strassen::kRows == kBlockRows, "a tile is a block whose tokens are in order");
  constexpr int64_t kSize = kHalf ? 2 : 4;
  const int64_t m = r.m, k = r.k, panel = k / 8 * 256;
  const int64_t chunks = (k / 16 + kDepth - 1) / kDepth, most = (k / 64 + chunks - 1) / chunks * 4;
  const int64_t left = most * strassen::kRows + 64, right = most * strassen::kColumns + 64;  // not a multiple of a page
  const int64_t tiles = std::min(kBlock, (m + strassen::kRows - 1) / strassen::kRows);
  const int64_t turned_bytes = strassen::kRows * most * 16 + 64, start_bytes = kProducts * 32 * 4;
  const int64_t tile_size = strassen::kRows * strassen::kColumns, sums_bytes = (chunks > 1 ? tiles : 1) * tile_size * 4;
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
        const uint8_t* from = r.codes + row * k + c * most * 16;
        lay_rows(from, k, depth(c), size(row), m - row, turned, rows + i * kProducts * left, left);
      }
#pragma omp for schedule(dynamic)
      for (size_t i = 0; i < parts.size(); ++i) {
        const auto [linear, p] = parts[i];
        for (int64_t c = 0; c < chunks; ++c) {
          lay_columns(linear->panels + p * panel + c * most * 512, panel, depth(c), columns, right, start);
          for (int64_t t = 0; t < here; ++t) {
            const int64_t row = block + t * strassen::kRows;
            const uint8_t* from = rows + (t * chunks + c) * kProducts * left;
            int32_t* to = sums + (chunks > 1 ? t : 0) * tile_size;
            if (c == 0) std::memset(to, 0, tile_size * 4);
            const char* out = (const char*)linear->out + (row * linear->n + p * 64) * kSize;
            const int64_t written = c + 1 == chunks ? std::min<int64_t>(m - row, strassen::kRows) : 0;
            const Later next{out, linear->n * kSize, written};
            switch (size(row)) {
              case 12: multiply<12>(from, left, columns, right, start, depth(c), to, next); break;
              case 8: multiply<8>(from, left, columns, right, start, depth(c), to, next); break;
              default: multiply<4>(from, left, columns, right, start, depth(c), to, next);
            }
            if (c + 1 < chunks) continue;
            for (int64_t h = 0; h < 2; ++h)
              finish_rows<kHalf>(to + h * 64, strassen::kColumns, r, *linear, row, (p + h) * 64);
          }
        }
      }
    }
  }
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

// Places of the tokens of each block, those of one state beside each other.
std::vector<int32_t> by_state(const int64_t* state, int64_t m) {
  std::vector<int32_t> order(m);
  for (int64_t block = 0; block < m; block += kBlockRows) {
    const auto begin = order.begin() + block, end = order.begin() + std::min(m, block + kBlockRows);
    std::iota(begin, end, 0);
    if (state) std::stable_sort(begin, end, [&](int32_t a, int32_t b) { return state[block + a] < state[block + b]; });
  }
  return order;
}

}  // namespace

// Linears that read the same codes [m, k], k a multiple of 8; outputs in bfloat16 (half) or float32; state and branch may be
// null. The integers are exact, and without a branch the floating-point operations are the reference's in its order; the
// branch is added before the result is rounded.
extern "C" int64_t starquant_linears(const uint8_t* codes, const int32_t* zero, const float* scale, const int64_t* state,
                                     const uint16_t* branch, const Linear* linears, int64_t count, int64_t m, int64_t k,
                                     int64_t bits, int64_t half, int64_t threads) {
  std::vector<int32_t> offset(m);
  const int largest = bits == 4 ? row_offsets(codes, m, k, offset.data(), threads) : 255;
  const std::vector<int32_t> order = by_state(state, m);
  const Rows r{codes, zero, offset.data(), scale, state, branch, order.data(), m, k};
  std::vector<Part> pairs, single;
  for (const Linear* w = linears; w < linears + count; ++w) {
    int64_t p = 0;
    if (strassen::pays(m, k, largest))
      for (; p + 2 <= w->count(); p += 2) pairs.push_back({w, p});
    for (; p < w->count(); ++p) single.push_back({w, p});
  }
  if (!pairs.empty()) (half ? strassen_gemm<true> : strassen_gemm<false>)(r, pairs, threads);
  const auto run = bits == 4 ? (half ? gemm<4, true> : gemm<4, false>) : (half ? gemm<8, true> : gemm<8, false>);
  if (!single.empty()) run(r, single, threads);
  return 0;
}
