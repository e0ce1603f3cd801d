// Integer matrix product of activation codes and packed weight codes with the whole epilogue, for AVX512-VNNI.
//
// Weights come in panels of 64 outputs, byte [k / 4][output][k % 4], as vpdpbusd reads them. Codes of up to four bits are
// stored plus eight, two groups of four channels a byte, and unpacked once a panel into a buffer of the thread's own.
#include "vector.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int kColumns = 64;  // outputs of a panel: four vectors of sixteen int32
constexpr int kRows = 6;      // tokens of a tile: 24 accumulators

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

struct Epilogue {
  const int32_t* zero;        // [M]
  const int32_t* offset;      // [M], what the plus eight of the stored codes adds
  const float* scale;         // [M]
  const float* weight_scale;  // [N]
  const int32_t* column_sum;  // [N]
  const float* bias;          // [N] or null
  const float* state_bias;    // [S, N] or null
  const int64_t* state;       // [M] or null
  const uint16_t* branch;     // coefficients of the low-rank branch, bfloat16 [M, 16], or null
  const uint16_t* image;      // their outputs, bfloat16 [S, 8, columns, 2]
  int64_t columns;            // N up to a whole panel
};

// What the low-rank branch adds to a tile's outputs. A pair of coefficients is read once for all of a token's outputs.
template <int kM>
inline void branch_outputs(const Epilogue& e, int64_t row, int64_t column, float (*sums)[kColumns]) {
  __m512 acc[kM][4];
  const uint16_t* image[kM];
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) {
    image[i] = e.image + (e.state[row + i] * 8 * e.columns + column) * 2;
    acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = _mm512_setzero_ps();
  }
  for (int p = 0; p < 8; ++p) {
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      int32_t two;
      std::memcpy(&two, e.branch + (row + i) * 16 + p * 2, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
      const uint16_t* from = image[i] + p * e.columns * 2;
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v)
        acc[i][v] = _mm512_dpbf16_ps(acc[i][v], x, (__m512bh)_mm512_loadu_si512(from + v * 32));
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) _mm512_store_ps(sums[i] + v * 16, acc[i][v]);
  }
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
  alignas(64) float branch[kM][kColumns];
  if (e.branch) branch_outputs<kM>(e, row, column, branch);
  for (int v = 0; v < 4; ++v) {
    const int64_t c = column + v * 16;
    if (c >= n) break;
    const __mmask16 mask = first(n - c);
    const __m512 ws = _mm512_maskz_loadu_ps(mask, e.weight_scale + c);
    const __m512i cs = _mm512_maskz_loadu_epi32(mask, e.column_sum + c);
    const __m512 bias = e.bias ? _mm512_maskz_loadu_ps(mask, e.bias + c) : _mm512_setzero_ps();
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      const int64_t m = row + i;
      const __m512i correction = _mm512_mullo_epi32(_mm512_set1_epi32(e.zero[m]), cs);
      __m512i total = _mm512_sub_epi32(_mm512_load_si512(sums[i] + v * 16), correction);
      total = _mm512_sub_epi32(total, _mm512_set1_epi32(e.offset[m]));
      __m512 y = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(total), _mm512_set1_ps(e.scale[m])), ws);
      if (e.bias) y = _mm512_add_ps(y, bias);
      if (e.state_bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, e.state_bias + e.state[m] * n + c));
      if (e.branch) y = _mm512_add_ps(y, _mm512_load_ps(branch[i] + v * 16));
      if (kHalf)
        store((uint16_t*)out + m * n + c, mask, y);
      else
        store((float*)out + m * n + c, mask, y);
    }
  }
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

template <int kBits, bool kHalf>
void gemm(const uint8_t* a, const uint8_t* packed, const Epilogue& e, int64_t m, int64_t n, int64_t k, void* out,
          int threads) {
  const int64_t panels = (n + kColumns - 1) / kColumns, groups = k / 4;
  const int64_t bytes = groups * 256 * kBits / 8;
#pragma omp parallel num_threads(threads)
  {
    int8_t* scratch = kBits == 8 ? nullptr : (int8_t*)std::aligned_alloc(64, groups * 256);
#pragma omp for schedule(dynamic)
    for (int64_t p = 0; p < panels; ++p) {
      const int8_t* panel = unpack_panel<kBits>(packed + p * bytes, scratch, groups);
      tiles<kHalf>(a, k, panel, groups, e, 0, m, p * kColumns, n, out);
    }
    std::free(scratch);
  }
}

// Eight times the sum of each row's codes.
void row_offsets(const uint8_t* a, int64_t m, int64_t k, int32_t* offset, int threads) {
#pragma omp parallel for num_threads(threads)
  for (int64_t row = 0; row < m; ++row) {
    int32_t sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += a[row * k + i];
    offset[row] = 8 * sum;
  }
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
  if (bits == 4) row_offsets(codes, m, k, offset, threads);
  const int64_t columns = (n + kColumns - 1) / kColumns * kColumns;
  const Epilogue e{zero, offset, scale, weight_scale, column_sum, bias, state_bias, state, branch, image, columns};
  const auto run = bits == 4 ? (half ? gemm<4, true> : gemm<4, false>) : (half ? gemm<8, true> : gemm<8, false>);
  run(codes, panels, e, m, n, k, out, threads);
  std::free(offset);
  return 0;
}
