// The most probable token of every row of logits and its probability, without a softmax in memory.
//
// Samplers rank rows by probabilities that are often equal (in bfloat16) or close, and their order decides what is
// generated. So every bit is as torch's softmax has it on AVX512: its exponential function, a sum a lane and then by
// halves, and what is left after whole vectors as torch treats it, in each type another way.
#include "vector.h"

#include <cmath>
#include <cstdint>
#include <type_traits>

namespace {

constexpr float kNear = 1.0f / 64;  // logits further apart never have equal probabilities, not even in bfloat16

// e^x for finite x <= 0 or -Inf, as SLEEF's expf with an error of at most one unit in the last place.
inline __m512 exponential(__m512 x) {
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-104), _CMP_GE_OQ);
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145751953125f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  __m512 p = _mm512_set1_ps(0.000198527617612853646f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.00139304355252534151f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.00833336077630519867f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.0416664853692054749f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.16666667163372039f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
  p = _mm512_add_ps(_mm512_set1_ps(1), _mm512_fmadd_ps(_mm512_mul_ps(r, r), p, r));
  return _mm512_maskz_scalef_ps(counts, p, n);
}

// The largest of a row; NaN or Inf if one is.
template <typename T>
float largest(const T* x, int64_t columns) {
  __m512 most = _mm512_set1_ps(-INFINITY);
  __mmask16 strange = 0;
  for (int64_t i = 0; i < columns; i += 16) {
    const __mmask16 mask = first(columns - i);
    const __m512 v = load(x + i, mask);
    strange |= _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    most = _mm512_mask_max_ps(most, mask, most, v);
  }
  return strange ? NAN : _mm512_reduce_max_ps(most);
}

inline float sum_of(__m512 x) {
  x = _mm512_add_ps(x, _mm512_shuffle_f32x4(x, x, 0x4E));
  x = _mm512_add_ps(x, _mm512_shuffle_f32x4(x, x, 0xB1));
  x = _mm512_add_ps(x, _mm512_shuffle_ps(x, x, 0x4E));
  x = _mm512_add_ps(x, _mm512_shuffle_ps(x, x, 0xB1));
  return _mm512_cvtss_f32(x);
}

// A row whose largest logit is finite.
template <typename T>
struct Row {
  const T* x;
  int64_t columns;
  float most;

  // Distances from the largest logit, of the sixteen columns from i on.
  __m512 below(int64_t i) const {
    return _mm512_sub_ps(load(x + i, first(columns - i)), _mm512_set1_ps(most));
  }

  // Their exponentials, with zeros beyond the last column.
  __m512 weights(int64_t i) const {
    const __mmask16 mask = first(columns - i);
    if (mask == 0xFFFF || sizeof(T) == 4) return _mm512_maskz_mov_ps(mask, exponential(below(i)));
    alignas(64) float rest[16];
    _mm512_store_ps(rest, below(i));
    for (int64_t j = 0; j < 16; ++j) rest[j] = mask >> j & 1 ? std::exp(rest[j]) : 0;
    return _mm512_load_ps(rest);
  }

  // The sum of all exponentials.
  float sum() const {
    const int64_t whole = columns / 16 * 16;
    __m512 sums = _mm512_setzero_ps();
    for (int64_t i = 0; i < whole; i += 16) sums = _mm512_add_ps(sums, exponential(below(i)));
    if (whole == columns) return sum_of(sums);
    if (sizeof(T) == 4 && whole) return sum_of(_mm512_add_ps(sums, weights(whole)));
    alignas(64) float rest[16];
    _mm512_store_ps(rest, weights(whole));
    float total = sum_of(sums);
    for (int64_t j = 0; j < columns - whole; ++j) total += rest[j];
    return total;
  }

  // The first of the largest logits.
  int64_t first_largest() const {
    for (int64_t i = 0;; i += 16) {
      const __mmask16 mask = first(columns - i);
      const __mmask16 equal = _mm512_mask_cmp_ps_mask(mask, load(x + i, mask), _mm512_set1_ps(most), _CMP_EQ_OQ);
      if (equal) return i + __builtin_ctz(equal);
    }
  }

  // The first token of the largest probability, as it is kept; scale is one by the sum.
  int64_t first_likeliest(float scale) const {
    const __m512 factor = _mm512_set1_ps(scale), best = kept<T>(factor);
    for (int64_t i = 0;; i += 16) {
      const __mmask16 mask = first(columns - i);
      if (!_mm512_mask_cmp_ps_mask(mask, below(i), _mm512_set1_ps(-kNear), _CMP_GE_OQ)) continue;
      const __m512 p = kept<T>(_mm512_mul_ps(weights(i), factor));
      const __mmask16 equal = _mm512_mask_cmp_ps_mask(mask, p, best, _CMP_EQ_OQ);
      if (equal) return i + __builtin_ctz(equal);
    }
  }
};

template <typename T>
int64_t run(const T* logits, int64_t rows, int64_t columns, bool by_probability, T* most, int64_t* tokens,
            T* probabilities, int threads) {
  int64_t strange = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : strange)
  for (int64_t i = 0; i < rows; ++i) {
    const T* x = logits + i * columns;
    const Row<T> row{x, columns, largest(x, columns)};
    if (!std::isfinite(row.most)) {
      ++strange;
      continue;
    }
    const float scale = 1 / row.sum();
    const int64_t place = row.first_largest();
    most[i] = x[place];
    tokens[i] = by_probability ? row.first_likeliest(scale) : place;
    store(probabilities + i, 1, _mm512_set1_ps(scale));
  }
  return strange;
}

}  // namespace

// logits [rows, columns] in bfloat16 (half) or float32, columns > 0. Of each row the largest logit; its place, the
// first of equals, or with by_probability that of the first token of the same probability; and this probability.
// Returns how many rows have no finite largest logit, of which nothing is written.
extern "C" int64_t starquant_greedy(const void* logits, int64_t rows, int64_t columns, int64_t by_probability,
                                    void* most, int64_t* tokens, void* probabilities, int64_t half, int64_t threads) {
  const auto with = [&](auto* from) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
    return run(from, rows, columns, by_probability != 0, static_cast<T*>(most), tokens,
               static_cast<T*>(probabilities), static_cast<int>(threads));
  };
  return half ? with(static_cast<const uint16_t*>(logits)) : with(static_cast<const float*>(logits));
}
