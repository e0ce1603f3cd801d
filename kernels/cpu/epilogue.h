// What an integer linear does to its sums, up to six tokens of one state and 64 outputs at a time.
#pragma once
#include "vector.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int kColumns = 64;  // outputs of a panel: four vectors of sixteen
constexpr int kRows = 6;      // tokens of a tile
constexpr int kBlockRows = 48;  // tokens that are put in order by state

// Codes of tokens, and what belongs to a token.
struct Rows {
  const uint8_t* codes;    // [M, K]
  const int32_t* zero;     // [M]
  const int32_t* offset;   // [M], what the plus eight of the stored codes adds
  const float* scale;      // [M]
  const int64_t* state;    // [M] or null
  const uint16_t* branch;  // coefficients of the low-rank branch, bfloat16 [M, 16], or null
  const int32_t* order;    // [M], places in each block of 48 tokens, by state
  int64_t m, k;

  bool same(int64_t block, int32_t a, int32_t b) const { return !state || state[block + a] == state[block + b]; }
};

// A linear: nine words, as Python lays them out.
struct Linear {
  const uint8_t* panels;
  const float* weight_scale;  // [N]
  const int32_t* column_sum;  // [N]
  const float* bias;          // [N] or null
  const float* state_bias;    // [S, N] or null
  const uint16_t* image;      // outputs of the branch, bfloat16 [S, 8, N up to a whole panel, 2], or null
  const void* residual;       // [M, N] or null: added to the rounded outputs
  void* out;                  // [M, N]
  int64_t n;

  int64_t count() const { return (n + kColumns - 1) / kColumns; }
};
static_assert(sizeof(Linear) == 9 * 8, "Python fills it");

// sums, rows `stride` apart, of the kM tokens block + order[i], which are of one state, to their outputs from `column` on, 32 of
// a panel at a time. What is read for a column or a pair of the branch's coefficients is read once for all of the tokens.
template <int kM, bool kHalf>
void finish(const int32_t* sums, int64_t stride, const Rows& r, const Linear& w, int64_t block, const int32_t* order,
            int64_t column) {
  using T = std::conditional_t<kHalf, uint16_t, float>;
  const int64_t n = w.n, columns = w.count() * kColumns, z = r.state ? r.state[block + order[0]] : 0;
  const uint16_t* image = w.image ? w.image + z * 8 * columns * 2 : nullptr;
  for (int64_t c = column; c < std::min(column + kColumns, n); c += 32) {
    const __mmask16 mask[2] = {first(n - c), first(n - c - 16)};
    __m512 added[kM][2];
    if (image) {
#pragma GCC unroll 6
      for (int i = 0; i < kM; ++i) added[i][0] = added[i][1] = _mm512_setzero_ps();
      for (int p = 0; p < 8; ++p) {
        const uint16_t* from = image + (p * columns + c) * 2;
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(from), b1 = (__m512bh)_mm512_loadu_si512(from + 32);
#pragma GCC unroll 6
        for (int i = 0; i < kM; ++i) {
          int32_t two;
          std::memcpy(&two, r.branch + (block + order[i]) * 16 + p * 2, 4);
          const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
          added[i][0] = _mm512_dpbf16_ps(added[i][0], x, b0);
          added[i][1] = _mm512_dpbf16_ps(added[i][1], x, b1);
        }
      }
    }
    __m512 scale[2], bias[2], shift[2];
    __m512i sum[2];
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      const int64_t at = c + v * 16;
      scale[v] = _mm512_maskz_loadu_ps(mask[v], w.weight_scale + at);
      sum[v] = _mm512_maskz_loadu_epi32(mask[v], w.column_sum + at);
      bias[v] = w.bias ? _mm512_maskz_loadu_ps(mask[v], w.bias + at) : _mm512_setzero_ps();
      shift[v] = w.state_bias ? _mm512_maskz_loadu_ps(mask[v], w.state_bias + z * n + at) : _mm512_setzero_ps();
    }
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      const int64_t m = block + order[i];
      const int32_t* from = sums + order[i] * stride + c - column;
      const __m512i zero = _mm512_set1_epi32(r.zero[m]), offset = _mm512_set1_epi32(r.offset[m]);
      __m512 y[2];
#pragma GCC unroll 2
      for (int v = 0; v < 2; ++v) {
        const __m512i total = _mm512_sub_epi32(_mm512_loadu_si512(from + v * 16), _mm512_mullo_epi32(zero, sum[v]));
        y[v] = _mm512_cvtepi32_ps(_mm512_sub_epi32(total, offset));
        y[v] = _mm512_mul_ps(_mm512_mul_ps(y[v], _mm512_set1_ps(r.scale[m])), scale[v]);
        if (w.bias) y[v] = _mm512_add_ps(y[v], bias[v]);
        if (w.state_bias) y[v] = _mm512_add_ps(y[v], shift[v]);
        if (image) y[v] = _mm512_add_ps(y[v], added[i][v]);
        if (w.residual) y[v] = _mm512_add_ps(kept<T>(y[v]), load((const T*)w.residual + m * n + c + v * 16, mask[v]));
      }
      if (kHalf) {
        const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(y[1], y[0]);
        const __mmask32 valid = mask[0] | static_cast<__mmask32>(mask[1]) << 16;
        _mm512_mask_storeu_epi16((uint16_t*)w.out + m * n + c, valid, both);
      } else {
        store((float*)w.out + m * n + c, mask[0], y[0]);
        store((float*)w.out + m * n + c + 16, mask[1], y[1]);
      }
    }
  }
}

// The same for the tokens of a block, whose order is by state.
template <bool kHalf>
void finish_rows(const int32_t* sums, int64_t stride, const Rows& r, const Linear& w, int64_t block, int64_t column) {
  const int64_t count = std::min<int64_t>(kBlockRows, r.m - block);
  for (int64_t i = 0; i < count;) {
    const int32_t* order = r.order + block + i;
    int64_t same = 1;
    while (same < kRows && i + same < count && r.same(block, order[0], order[same])) ++same;
    i += same;
    switch (same) {
      case 1: finish<1, kHalf>(sums, stride, r, w, block, order, column); break;
      case 2: finish<2, kHalf>(sums, stride, r, w, block, order, column); break;
      case 3: finish<3, kHalf>(sums, stride, r, w, block, order, column); break;
      case 4: finish<4, kHalf>(sums, stride, r, w, block, order, column); break;
      case 5: finish<5, kHalf>(sums, stride, r, w, block, order, column); break;
      default: finish<kRows, kHalf>(sums, stride, r, w, block, order, column);
    }
  }
}

}  // namespace
