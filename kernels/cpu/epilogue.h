// What an integer linear does to its sums, a tile of up to six tokens and 64 outputs at a time.
#pragma once
#include "vector.h"

#include <cstdint>
#include <cstring>

namespace {

constexpr int kColumns = 64;  // outputs of a panel: four vectors of sixteen
constexpr int kRows = 6;      // tokens of a tile

// Codes of tokens, and what belongs to a token.
struct Rows {
  const uint8_t* codes;    // [M, K]
  const int32_t* zero;     // [M]
  const int32_t* offset;   // [M], what the plus eight of the stored codes adds
  const float* scale;      // [M]
  const int64_t* state;    // [M] or null
  const uint16_t* branch;  // coefficients of the low-rank branch, bfloat16 [M, 16], or null
  int64_t m, k;
};

// A linear: eight words, as Python lays them out.
struct Linear {
  const uint8_t* panels;
  const float* weight_scale;  // [N]
  const int32_t* column_sum;  // [N]
  const float* bias;          // [N] or null
  const float* state_bias;    // [S, N] or null
  const uint16_t* image;      // outputs of the branch, bfloat16 [S, 8, N up to a whole panel, 2], or null
  void* out;                  // [M, N]
  int64_t n;

  int64_t count() const { return (n + kColumns - 1) / kColumns; }
};
static_assert(sizeof(Linear) == 8 * 8, "Python fills it");

// What the low-rank branch adds to a tile's outputs. A pair of coefficients is read once for all of a token's outputs.
template <int kM>
inline void branch_outputs(const Rows& r, const Linear& w, int64_t row, int64_t column, float (*sums)[kColumns]) {
  const int64_t columns = w.count() * kColumns;
  __m512 acc[kM][4];
  const uint16_t* image[kM];
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) {
    image[i] = w.image + (r.state[row + i] * 8 * columns + column) * 2;
    acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = _mm512_setzero_ps();
  }
  for (int p = 0; p < 8; ++p) {
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      int32_t two;
      std::memcpy(&two, r.branch + (row + i) * 16 + p * 2, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
      const uint16_t* from = image[i] + p * columns * 2;
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

// sums [kM, 64], rows `stride` apart, to outputs from `row` and `column` on.
template <int kM, bool kHalf>
void finish(const int32_t* sums, int64_t stride, const Rows& r, const Linear& w, int64_t row, int64_t column) {
  const int64_t n = w.n;
  alignas(64) float branch[kM][kColumns];
  if (w.image) branch_outputs<kM>(r, w, row, column, branch);
  for (int v = 0; v < 4; ++v) {
    const int64_t c = column + v * 16;
    if (c >= n) break;
    const __mmask16 mask = first(n - c);
    const __m512 ws = _mm512_maskz_loadu_ps(mask, w.weight_scale + c);
    const __m512i cs = _mm512_maskz_loadu_epi32(mask, w.column_sum + c);
    const __m512 bias = w.bias ? _mm512_maskz_loadu_ps(mask, w.bias + c) : _mm512_setzero_ps();
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      const int64_t m = row + i;
      const __m512i correction = _mm512_mullo_epi32(_mm512_set1_epi32(r.zero[m]), cs);
      __m512i total = _mm512_sub_epi32(_mm512_loadu_si512(sums + i * stride + v * 16), correction);
      total = _mm512_sub_epi32(total, _mm512_set1_epi32(r.offset[m]));
      __m512 y = _mm512_mul_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(total), _mm512_set1_ps(r.scale[m])), ws);
      if (w.bias) y = _mm512_add_ps(y, bias);
      if (w.state_bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, w.state_bias + r.state[m] * n + c));
      if (w.image) y = _mm512_add_ps(y, _mm512_load_ps(branch[i] + v * 16));
      if (kHalf)
        store((uint16_t*)w.out + m * n + c, mask, y);
      else
        store((float*)w.out + m * n + c, mask, y);
    }
  }
}

// The same for a tile of any number of tokens.
template <bool kHalf>
void finish_rows(const int32_t* sums, int64_t stride, const Rows& r, const Linear& w, int64_t row, int64_t count,
                 int64_t column) {
  for (; count >= kRows; row += kRows, count -= kRows, sums += kRows * stride)
    finish<kRows, kHalf>(sums, stride, r, w, row, column);
  for (; count > 0; ++row, --count, sums += stride) finish<1, kHalf>(sums, stride, r, w, row, column);
}

}  // namespace
