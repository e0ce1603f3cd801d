// Vectors of sixteen float32 that are kept as float32 or bfloat16.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace {

inline __mmask16 first(int64_t count) {
  return count >= 16 ? 0xFFFF : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}

// Rounds to bfloat16: sixteen words.
inline __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

inline __m512 widened(__m256i words) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}

inline __m512 load(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }

inline __m512 load(const uint16_t* from, __mmask16 mask) { return widened(_mm256_maskz_loadu_epi16(mask, from)); }

inline void store(float* to, __mmask16 mask, __m512 x) { _mm512_mask_storeu_ps(to, mask, x); }

inline void store(uint16_t* to, __mmask16 mask, __m512 x) { _mm256_mask_storeu_epi16(to, mask, rounded(x)); }

// What is left of a value that is kept as T.
template <typename T>
inline __m512 kept(__m512 x) {
  return sizeof(T) == 2 ? widened(rounded(x)) : x;
}

// 2^x for x <= 0, to 2e-7 of its value; 0 for -Inf, NaN for NaN.
inline __m512 power_of_two(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);  // x - floor(x), 0 for -Inf
  __m512 p = _mm512_set1_ps(1.87757669e-3f);                                        // 2^f on [0, 1], minimax
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(8.98933969e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.58263175e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.40153611e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.93153083e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.99999940e-1f));
  return _mm512_scalef_ps(p, x);  // p * 2^floor(x)
}

// Transposes sixteen rows of sixteen words: blocks off the diagonal change places, of eight words down to one.
inline void transpose(__m512i (&row)[16]) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i second = _mm512_set1_epi32(16);
#pragma GCC unroll 4
  for (int size = 8; size; size /= 2) {
    const __m512i by = _mm512_set1_epi32(size);
    const __mmask16 upper = _mm512_test_epi32_mask(lane, by);
    const __m512i low = _mm512_mask_add_epi32(lane, upper, _mm512_sub_epi32(lane, by), second);
    const __m512i high = _mm512_mask_add_epi32(_mm512_add_epi32(lane, by), upper, lane, second);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i & size) continue;
      const __m512i a = row[i], b = row[i + size];
      row[i] = _mm512_permutex2var_epi32(a, low, b);
      row[i + size] = _mm512_permutex2var_epi32(a, high, b);
    }
  }
}

}  // namespace
