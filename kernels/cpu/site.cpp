// What a site does to its input: the norm or gated activation before it, TAC, centring, low-rank branch, basis, gates and the quantizer.
//
// Tokens of one state are taken eight at a time, so that tables of the state are read once for all of them. Products with
// the left Kronecker factor and with the branch's directions are in bfloat16, summed in float32; all else is float32.
#include "scratch.h"
#include "vector.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t kTokens = 8;    // tokens of a group
constexpr int64_t kColumns = 64;  // columns of a tile: four vectors of sixteen float32
constexpr int kRows = 6;
constexpr int64_t kRank = 16;  // directions of a state, padded

struct Site {
  const void* x;               // [tokens, features], bfloat16 (half) or float32
  const void* other;           // what silu(x) is multiplied by, or null: x is read as it is
  const int64_t* state;
  const float* matrix;         // transposed [d / g, g, g], g at most 16, or null
  const float* offset;         // [d]
  const float* means;          // [S, d] or null
  const uint16_t* directions;  // bfloat16 [S, d / 2, 16, 2] or null
  const uint16_t* back;        // the same, negative: bfloat16 [S, 8, columns, 2]
  const float* signs;          // [d] or null
  const uint16_t* left;        // bfloat16 [a', even a], or null without a basis
  const float* right;          // [b, b padded to 16]
  const int64_t* bounds;       // [2 S] or null without gates
  const float* clip;           // [2] or null
  int64_t tokens, features, block, rank, a, b, shared, half, bits, symmetric;
  double eps;  // of an RMS norm without a gain; negative = none

  int64_t columns() const { return (kTokens * b + kColumns - 1) / kColumns * kColumns; }
  int64_t width() const { return (features + kColumns - 1) / kColumns * kColumns; }  // of a row in memory
};

// Pairs (low, high) as bfloat16.
inline __m512i paired(__m512 low, __m512 high) {
  const __m512i up = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded(high)), 16);
  return _mm512_or_si512(up, _mm512_cvtepu16_epi32(rounded(low)));
}

inline __m512 silu(__m512 x) {
  const __m512 e = power_of_two(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(-1.44269504f)));
  const __m512 top = _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), _mm512_mul_ps(x, e));
  // Divides by a reciprocal of fourteen bits that one of Newton's steps makes exact to 2^-27.
  const __m512 below = _mm512_add_ps(_mm512_set1_ps(1), e), near = _mm512_rcp14_ps(below);
  return _mm512_mul_ps(top, _mm512_mul_ps(near, _mm512_fnmadd_ps(below, near, _mm512_set1_ps(2))));
}

// What the site reads of one token, and the centring unless TAC stands before it. Like the operators in whose place it is,
// it rounds to T after each step.
template <typename T>
void read(const Site& s, int64_t token, const float* mean, float* row) {
  const T* x = static_cast<const T*>(s.x) + token * s.features;
  const T* other = s.other ? static_cast<const T*>(s.other) + token * s.features : nullptr;
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < s.features; i += 16) {
    const __mmask16 mask = first(s.features - i);
    __m512 v = load(x + i, mask);
    if (other) v = kept<T>(_mm512_mul_ps(kept<T>(silu(v)), load(other + i, mask)));
    squares = _mm512_fmadd_ps(v, v, squares);
    _mm512_storeu_ps(row + i, v);
  }
  if (s.eps < 0 && (!mean || s.matrix)) return;
  const float mean_square = _mm512_reduce_add_ps(squares) / s.features;
  const __m512 by = _mm512_set1_ps(1 / std::sqrt(mean_square + static_cast<float>(s.eps)));
  for (int64_t i = 0; i < s.features; i += 16) {
    __m512 v = _mm512_loadu_ps(row + i);
    if (s.eps >= 0) v = kept<T>(_mm512_mul_ps(v, by));
    if (mean && !s.matrix) v = _mm512_sub_ps(v, load(mean + i, first(s.features - i)));
    _mm512_storeu_ps(row + i, v);
  }
}

// TAC of a group, and the centring after it.
void correct(const Site& s, const float* mean, float* rows) {
  const __mmask16 mask = first(s.block);
  for (int64_t start = 0; start < s.features; start += s.block) {
    __m512 sum[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) sum[t] = _mm512_maskz_loadu_ps(mask, s.offset + start);
    for (int64_t i = 0; i < s.block; ++i) {
      const __m512 row = _mm512_maskz_loadu_ps(mask, s.matrix + (start + i) * s.block);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t)
        sum[t] = _mm512_fmadd_ps(_mm512_set1_ps(rows[t * s.width() + start + i]), row, sum[t]);
    }
    const __m512 less = mean ? _mm512_maskz_loadu_ps(mask, mean + start) : _mm512_setzero_ps();
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t)
      _mm512_mask_storeu_ps(rows + t * s.width() + start, mask, _mm512_sub_ps(sum[t], less));
  }
}

// Where products go: rows of float32, and in a row either all columns in order or each eight at a place of their own.
struct Target {
  float* at;
  int64_t pitch;
  const int64_t* places;
};

// to [kM, 64 columns] (+)= a [kM, pairs] b [pairs, columns].
template <int kM, bool kAdd, bool kSpread>
void tile(const uint16_t* a, int64_t pairs, const uint16_t* b, int64_t b_columns, const Target& to) {
  __m512 acc[kM][4];
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v)
      acc[i][v] = kAdd ? _mm512_loadu_ps(to.at + i * to.pitch + v * 16) : _mm512_setzero_ps();
  }
  for (int64_t p = 0; p < pairs; ++p) {
    const uint16_t* from = b + p * b_columns * 2;
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(from), b1 = (__m512bh)_mm512_loadu_si512(from + 32);
    const __m512bh b2 = (__m512bh)_mm512_loadu_si512(from + 64), b3 = (__m512bh)_mm512_loadu_si512(from + 96);
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      int32_t two;
      std::memcpy(&two, a + (i * pairs + p) * 2, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
      acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);
      acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);
      acc[i][2] = _mm512_dpbf16_ps(acc[i][2], x, b2);
      acc[i][3] = _mm512_dpbf16_ps(acc[i][3], x, b3);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) {
    float* row = to.at + i * to.pitch;
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      if (kSpread) {
        _mm256_storeu_ps(row + to.places[v * 2], _mm512_castps512_ps256(acc[i][v]));
        _mm256_storeu_ps(row + to.places[v * 2 + 1], _mm512_extractf32x8_ps(acc[i][v], 1));
      } else {
        _mm512_storeu_ps(row + v * 16, acc[i][v]);
      }
    }
  }
}

template <bool kAdd, bool kSpread>
void product(const uint16_t* a, int64_t rows, int64_t pairs, const uint16_t* b, int64_t columns, const Target& to) {
  for (int64_t c = 0; c < columns; c += kColumns) {
    const auto from = [&](int64_t i) {
      return kSpread ? Target{to.at + i * to.pitch, to.pitch, to.places + c / 8}
                     : Target{to.at + i * to.pitch + c, to.pitch, nullptr};
    };
    int64_t i = 0;
    for (; i + kRows <= rows; i += kRows)
      tile<kRows, kAdd, kSpread>(a + i * pairs * 2, pairs, b + c * 2, columns, from(i));
    for (; i + 2 <= rows; i += 2) tile<2, kAdd, kSpread>(a + i * pairs * 2, pairs, b + c * 2, columns, from(i));
    for (; i < rows; ++i) tile<1, kAdd, kSpread>(a + i * pairs * 2, pairs, b + c * 2, columns, from(i));
  }
}

// Splits off the state's directions; the coefficients that are taken away are those that the branch adds back.
void split(const Site& s, int64_t state, const int64_t* tokens, float* rows, uint16_t* half_row, uint16_t* coefficients) {
  const int64_t pairs = (s.features + 1) / 2;
  const uint16_t* u = s.directions + state * pairs * kRank * 2;
  alignas(64) uint16_t found[kTokens][kRank];
  __m512 acc[kTokens];
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < s.width(); i += 16)
      _mm256_storeu_si256((__m256i*)(half_row + t * s.width() + i), rounded(_mm512_loadu_ps(rows + t * s.width() + i)));
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) acc[t] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    const __m512bh b = (__m512bh)_mm512_loadu_si512(u + p * kRank * 2);
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      int32_t two;
      std::memcpy(&two, half_row + t * s.width() + p * 2, 4);
      acc[t] = _mm512_dpbf16_ps(acc[t], (__m512bh)_mm512_set1_epi32(two), b);
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) _mm256_store_si256((__m256i*)found[t], rounded(acc[t]));
  for (int64_t t = 0; t < kTokens; ++t)
    if (tokens[t] >= 0) std::memcpy(coefficients + tokens[t] * s.rank, found[t], s.rank * sizeof(uint16_t));
  const uint16_t* back = s.back + state * kRank * s.width();
  product<true, false>(found[0], kTokens, kRank / 2, back, s.width(), {rows, s.width(), nullptr});
}

// Multiplies the right factor onto kMany consecutive rows of a token and lays the result out for the left one.
template <int kVectors, int kMany>
void times_right(const Site& s, const float* from, int64_t pitch, uint16_t* to) {
  __m512 acc[kMany][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kMany; ++i)
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) acc[i][v] = _mm512_setzero_ps();
  for (int64_t r = 0; r < s.b; ++r) {
    __m512 w[kVectors];
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) w[v] = _mm512_loadu_ps(s.right + (r * kVectors + v) * 16);
#pragma GCC unroll 8
    for (int i = 0; i < kMany; ++i) {
      const __m512 x = _mm512_set1_ps(from[i * s.b + r]);
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) acc[i][v] = _mm512_fmadd_ps(x, w[v], acc[i][v]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kMany; i += 2)
    for (int v = 0; v < kVectors; ++v)
      _mm512_mask_storeu_epi32(to + i / 2 * pitch + v * 32, first(s.b - v * 16), paired(acc[i][v], acc[i + 1][v]));
}

// The right factor on one token: several rows at once, so that sums do not wait for each other.
template <int kVectors>
void turn_right(const Site& s, const float* row, uint16_t* panel, int64_t pitch) {
  constexpr int kMany = kVectors == 1 ? 8 : kVectors == 2 ? 4 : 2;
  int64_t i = 0;
  for (; i + kMany <= s.a; i += kMany) times_right<kVectors, kMany>(s, row + i * s.b, pitch, panel + i / 2 * pitch);
  // What a last odd row is paired with lies past the row's end and has no weight in the left factor.
  for (; i < s.a; i += 2) times_right<kVectors, 2>(s, row + i * s.b, pitch, panel + i / 2 * pitch);
}

using Right = void (*)(const Site&, const float*, uint16_t*, int64_t);
constexpr Right kRight[] = {turn_right<1>, turn_right<2>, turn_right<3>, turn_right<4>,
                            turn_right<5>, turn_right<6>, turn_right<7>, turn_right<8>};

// places: see Target, of the columns of a group; null where a token's columns are no multiple of eight.
void rotate(const Site& s, const int64_t* places, float* rows, uint16_t* panel, float* turned) {
  const int64_t columns = s.columns(), pairs = (s.a + 1) / 2;
  const Right right = kRight[(s.b + 15) / 16 - 1];
  for (int64_t t = 0; t < kTokens; ++t) right(s, rows + t * s.width(), panel + t * s.b * 2, columns * 2);
  if (places) return product<false, true>(s.left, s.a, pairs, panel, columns, {rows, s.b, places});
  product<false, false>(s.left, s.a, pairs, panel, columns, {turned, columns, nullptr});
  for (int64_t i = 0; i < s.a; ++i)
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t r = 0; r < s.b; r += 16) {
        const __mmask16 mask = first(s.b - r);
        const __m512 v = _mm512_maskz_loadu_ps(mask, turned + i * columns + t * s.b + r);
        _mm512_mask_storeu_ps(rows + t * s.width() + i * s.b + r, mask, v);
      }
}

// Gates and quantizes one token (reference.activation_range, activation_grid and quantize_activation). After a basis,
// which is approximate, it multiplies by the step's reciprocal where the reference divides. Says whether all is finite,
// the range included.
bool quantize(const Site& s, int64_t state, int64_t token, float* row, uint8_t* codes, float* scale, float* zero) {
  const int64_t own = s.bounds ? s.bounds[2 * state] : 0, end = s.bounds ? s.bounds[2 * state + 1] : s.features;
  __m512 least = _mm512_setzero_ps(), most = _mm512_setzero_ps();
  const __m512 infinite = _mm512_set1_ps(INFINITY);
  __mmask16 odd = 0;  // NaN compares with nothing
  for (int64_t i = 0; i < s.features; i += 16) {
    __m512 v = _mm512_maskz_loadu_ps(first(s.features - i), row + i);
    odd |= _mm512_cmp_ps_mask(_mm512_abs_ps(v), infinite, _CMP_NLT_UQ);  // before a gate can hide it
    if (s.bounds) {
      v = _mm512_maskz_mov_ps(first(s.shared - i) | (first(end - i) & ~first(own - i)), v);
      _mm512_storeu_ps(row + i, v);  // a row has room for whole vectors
    }
    least = _mm512_min_ps(least, v);
    most = _mm512_max_ps(most, v);
  }
  float low = _mm512_reduce_min_ps(least), high = _mm512_reduce_max_ps(most);
  if (s.clip) low *= s.clip[0], high *= s.clip[1];
  constexpr float kTiny = 1.17549435e-38f;
  const float levels = (1 << s.bits) - 1;
  float step, origin;
  if (s.symmetric) {
    const float half = 1 << (s.bits - 1);
    step = std::max(std::max(-low, high) / std::max(half - 1, 1.0f), kTiny);
    origin = half;
  } else {
    step = std::max((high - low) / levels, kTiny);
    origin = std::min(std::max(std::nearbyint(-low / step), 0.0f), levels);
  }
  const bool exact = !s.left || step < 1e-30f;
  uint8_t* to = codes + token * s.features;
  const __m512 by = _mm512_set1_ps(exact ? step : 1 / step), add = _mm512_set1_ps(origin), top = _mm512_set1_ps(levels);
  for (int64_t i = 0; i < s.features; i += 16) {
    const __mmask16 mask = first(s.features - i);
    const __m512 x = _mm512_maskz_loadu_ps(mask, row + i);
    __m512 v = _mm512_add_ps(exact ? _mm512_div_ps(x, by) : _mm512_mul_ps(x, by), add);
    v = _mm512_min_ps(_mm512_max_ps(v, _mm512_setzero_ps()), top);
    _mm_mask_storeu_epi8(to + i, mask, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));  // rounds half to even
  }
  scale[token] = step;
  zero[token] = origin;
  return !odd && std::isfinite(step);
}

// Orders the tokens by state, each state padded to whole groups with -1; returns the number of places, -1 if a token has a
// state that there is not.
int64_t grouped(const Site& s, int64_t states, int64_t* order) {
  int64_t count = 0, found = 0;
  for (int64_t z = 0; z < states; ++z) {
    for (int64_t token = 0; token < s.tokens; ++token)
      if (!s.state || s.state[token] == z) order[count++] = token, ++found;
    while (count % kTokens) order[count++] = -1;
  }
  return found == s.tokens ? count : -1;
}

thread_local Scratch scratch;

// Where a group is worked on.
struct Room {
  float *rows, *turned;
  uint16_t *half_rows, *panel;

  explicit Room(const Site& s) {
    const int64_t row_bytes = (kTokens * s.width() + s.b) * 4, turned_bytes = s.a * s.columns() * 4;
    const int64_t half_bytes = kTokens * s.width() * 2, panel_bytes = (s.a + 1) / 2 * s.columns() * 4 + 512;
    const auto whole = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
    uint8_t* at = scratch.room(whole(row_bytes) + turned_bytes + half_bytes + panel_bytes);
    rows = (float*)at;
    turned = (float*)(at += whole(row_bytes));
    half_rows = (uint16_t*)(at += turned_bytes);
    panel = (uint16_t*)(at += half_bytes);
    std::memset(rows, 0, row_bytes);  // what lies past the end of a row is read, and has no weight
  }
};

}  // namespace

// codes [tokens, features], scale and zero [tokens], coefficients [tokens, rank] bfloat16 (null without directions).
// Returns 0, or 1 if a token has a state that there is not, or 2 if a value or a token's range is not finite.
extern "C" int64_t starquant_site(const void* x, const void* other, const int64_t* state, const float* matrix, const float* offset,
                               const float* means, const uint16_t* directions, const uint16_t* back,
                               const float* signs, const uint16_t* left, const float* right, const int64_t* bounds,
                               const float* clip, uint8_t* codes, float* scale, float* zero, uint16_t* coefficients,
                               int64_t tokens, int64_t features, int64_t block, int64_t rank, int64_t a, int64_t b,
                               int64_t shared, int64_t states, int64_t half, int64_t bits,
                               int64_t symmetric, double eps, int64_t threads) {
  const Site s{x,      other,  state,    matrix, offset, means, directions, back, signs,  left,   right, bounds,
               clip,   tokens,   features, block, rank,  a,          b,    shared, half,  bits, symmetric, eps};
  std::vector<int64_t> order(tokens + states * kTokens);
  const int64_t places = grouped(s, states, order.data());
  if (places < 0) return 1;
  std::vector<int64_t> columns;  // of each eight columns that the left factor gives
  for (int64_t c = 0; b % 8 == 0 && c < kTokens * b; c += 8) columns.push_back(c / b * s.width() + c % b);
  bool finite = true;
#pragma omp parallel num_threads(threads) reduction(&& : finite)
  {
    const auto [rows, turned, half_rows, panel] = Room(s);
#pragma omp for schedule(static)
    for (int64_t start = 0; start < places; start += kTokens) {
      const int64_t* group = order.data() + start;
      const int64_t z = state ? state[group[0]] : 0;
      const float* mean = means ? means + z * features : nullptr;
      for (int64_t t = 0; t < kTokens; ++t) {
        float* row = rows + t * s.width();
        (half ? read<uint16_t> : read<float>)(s, group[t] < 0 ? group[0] : group[t], mean, row);
      }
      if (matrix) correct(s, mean, rows);
      if (directions) split(s, z, group, rows, half_rows, coefficients);
      if (signs)
        for (int64_t t = 0; t < kTokens; ++t)
          for (int64_t i = 0; i < features; ++i) rows[t * s.width() + i] *= signs[i];
      if (left) rotate(s, columns.empty() ? nullptr : columns.data(), rows, panel, turned);
      for (int64_t t = 0; t < kTokens && group[t] >= 0; ++t)
        finite = quantize(s, z, group[t], rows + t * s.width(), codes, scale, zero) && finite;
    }
  }
  return finite ? 0 : 2;
}
