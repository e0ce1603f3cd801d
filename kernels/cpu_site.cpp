// What a site does to its input: correction, centring, low-rank branch, basis, gates and the quantizer, token by token.
//
// The left factor of a Kronecker basis is a product in bfloat16 over a few tokens at a time; all else is float32.
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int64_t kTokens = 8;    // tokens that share a product with the left factor
constexpr int64_t kColumns = 64;  // columns of a tile: four vectors of sixteen float32
constexpr int kRows = 6;

struct Site {
  const void* x;
  const int64_t* state;
  const float* matrix;      // [d / g, g, g] or null
  const float* offset;      // [d]
  const float* means;       // [S, d] or null
  const float* directions;  // [S, k, d] or null
  const float* signs;       // [d] or null
  const uint16_t* left;     // [a, a'] transposed, rows of even length, bfloat16; null without a basis
  const float* right;       // [b, b]
  const int64_t* bounds;    // [2 S] or null without gates
  const float* clip;        // [2] or null
  int64_t tokens, features, block, rank, a, b, shared, stride;
  int32_t half, bits, symmetric;
};

inline void load(const Site& s, int64_t token, float* row) {
  if (!s.half) {
    std::memcpy(row, static_cast<const float*>(s.x) + token * s.features, s.features * sizeof(float));
    return;
  }
  const uint16_t* from = static_cast<const uint16_t*>(s.x) + token * s.features;
  for (int64_t i = 0; i < s.features; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
    std::memcpy(row + i, &bits, 4);
  }
}

void correct(const Site& s, float* row, float* spare) {
  const int64_t g = s.block;
  for (int64_t start = 0; start < s.features; start += g) {
    const float* m = s.matrix + start * g;
    for (int64_t j = 0; j < g; ++j) {
      float sum = 0;
      for (int64_t i = 0; i < g; ++i) sum += m[j * g + i] * row[start + i];
      spare[start + j] = sum + s.offset[start + j];
    }
  }
  std::memcpy(row, spare, s.features * sizeof(float));
}

// Splits off the state's directions; writes the coefficients as bfloat16.
void split(const Site& s, int64_t token, float* row, uint16_t* coefficients) {
  const float* u = s.directions + s.state[token] * s.rank * s.features;
  for (int64_t j = 0; j < s.rank; ++j) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < s.features; ++i) sum += u[j * s.features + i] * row[i];
    uint32_t bits;
    std::memcpy(&bits, &sum, 4);
    bits += 0x7FFF + ((bits >> 16) & 1);
    coefficients[token * s.rank + j] = bits >> 16;
    bits &= 0xFFFF0000;
    std::memcpy(&sum, &bits, 4);  // what the branch adds back is what is taken away here
#pragma omp simd
    for (int64_t i = 0; i < s.features; ++i) row[i] -= sum * u[j * s.features + i];
  }
}

void times_right(const Site& s, float* row, float* spare) {
  for (int64_t i = 0; i < s.a; ++i) {
    float* to = spare + i * s.b;
    const float* from = row + i * s.b;
    std::memset(to, 0, s.b * sizeof(float));
    for (int64_t r = 0; r < s.b; ++r) {
#pragma omp simd
      for (int64_t c = 0; c < s.b; ++c) to[c] += from[r] * s.right[r * s.b + c];
    }
  }
  std::memcpy(row, spare, s.features * sizeof(float));
}

template <int kM>
void tile(const uint16_t* left, int64_t pairs, const uint16_t* panel, int64_t columns, float* out) {
  __m512 acc[kM][4];
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    const uint16_t* b = panel + p * columns * 2;
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 32);
    const __m512bh b2 = (__m512bh)_mm512_loadu_si512(b + 64), b3 = (__m512bh)_mm512_loadu_si512(b + 96);
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      int32_t two;
      std::memcpy(&two, left + (i * pairs + p) * 2, 4);
      const __m512bh x = (__m512bh)_mm512_set1_epi32(two);
      acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);
      acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);
      acc[i][2] = _mm512_dpbf16_ps(acc[i][2], x, b2);
      acc[i][3] = _mm512_dpbf16_ps(acc[i][3], x, b3);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i)
    for (int v = 0; v < 4; ++v) _mm512_storeu_ps(out + i * columns + v * 16, acc[i][v]);
}

// Multiplies the left factor onto a few tokens.
void times_left(const Site& s, int64_t count, float* rows, uint16_t* panel, float* product) {
  const int64_t used = count * s.b, columns = (used + kColumns - 1) / kColumns * kColumns, pairs = (s.a + 1) / 2;
  std::memset(panel, 0, pairs * columns * 2 * sizeof(uint16_t));
  for (int64_t i = 0; i < s.a; ++i)
    for (int64_t t = 0; t < count; ++t) {
      const float* from = rows + t * s.features + i * s.b;
      uint16_t* to = panel + (i / 2 * columns + t * s.b) * 2 + i % 2;
      for (int64_t r = 0; r < s.b; ++r) {
        uint32_t bits;
        std::memcpy(&bits, from + r, 4);
        to[r * 2] = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
      }
    }
  for (int64_t c = 0; c < columns; c += kColumns) {
    int64_t i = 0;
    for (; i + kRows <= s.a; i += kRows)
      tile<kRows>(s.left + i * pairs * 2, pairs, panel + c * 2, columns, product + i * columns + c);
    for (; i < s.a; ++i) tile<1>(s.left + i * pairs * 2, pairs, panel + c * 2, columns, product + i * columns + c);
  }
  for (int64_t i = 0; i < s.a; ++i)
    for (int64_t t = 0; t < count; ++t)
      std::memcpy(rows + t * s.features + i * s.b, product + i * columns + t * s.b, s.b * sizeof(float));
}

// Gates and quantizes one token (reference.activation_range, activation_grid and quantize_activation).
void quantize(const Site& s, int64_t token, float* row, uint8_t* codes, float* scale, float* zero) {
  if (s.bounds) {
    const int64_t low = s.bounds[2 * s.state[token]], high = s.bounds[2 * s.state[token] + 1];
    for (int64_t i = s.shared; i < s.features; ++i)
      if (i < low || i >= high) row[i] = 0;
  }
  float low = 0, high = 0;
#pragma omp simd reduction(min : low) reduction(max : high)
  for (int64_t i = 0; i < s.features; ++i) {
    low = std::min(low, row[i]);
    high = std::max(high, row[i]);
  }
  if (s.clip) low *= s.clip[0], high *= s.clip[1];
  const float levels = (1 << s.bits) - 1;
  float step, origin;
  if (s.symmetric) {
    const float half = 1 << (s.bits - 1);
    step = std::max(std::max(-low, high) / std::max(half - 1, 1.0f), 1.17549435e-38f);
    origin = half;
  } else {
    step = std::max((high - low) / levels, 1.17549435e-38f);
    origin = std::min(std::max(std::nearbyint(-low / step), 0.0f), levels);
  }
  uint8_t* to = codes + token * s.stride;
  const __m512 div = _mm512_set1_ps(step), add = _mm512_set1_ps(origin), top = _mm512_set1_ps(levels);
  for (int64_t i = 0; i < s.features; i += 16) {
    const __mmask16 mask = s.features - i >= 16 ? 0xFFFF : (__mmask16)((1u << (s.features - i)) - 1);
    __m512 v = _mm512_add_ps(_mm512_div_ps(_mm512_maskz_loadu_ps(mask, row + i), div), add);
    v = _mm512_min_ps(_mm512_max_ps(_mm512_roundscale_ps(v, 8), _mm512_setzero_ps()), top);
    _mm_mask_storeu_epi8(to + i, mask, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }
  std::memset(to + s.features, 0, s.stride - s.features);
  scale[token] = step;
  zero[token] = origin;
}

}  // namespace

// codes [tokens, stride], scale and zero [tokens], coefficients [tokens, rank] bfloat16 (null without directions).
extern "C" void starquant_site(const void* x, const int64_t* state, const float* matrix, const float* offset,
                               const float* means, const float* directions, const float* signs, const uint16_t* left,
                               const float* right, const int64_t* bounds, const float* clip, uint8_t* codes,
                               float* scale, float* zero, uint16_t* coefficients, int64_t tokens, int64_t features,
                               int64_t block, int64_t rank, int64_t a, int64_t b, int64_t shared, int64_t stride,
                               int32_t half, int32_t bits, int32_t symmetric, int32_t threads) {
  const Site s{x,     state,  matrix,   offset, means, directions, signs, left, right,  bounds, clip, tokens,
               features, block, rank, a,      b,     shared,     stride, half, bits, symmetric};
#pragma omp parallel num_threads(threads)
  {
    const int64_t columns = (kTokens * b + kColumns - 1) / kColumns * kColumns, pairs = (a + 1) / 2;
    float* rows = static_cast<float*>(std::malloc(kTokens * features * sizeof(float)));
    float* spare = static_cast<float*>(std::malloc(std::max(features, a * columns) * sizeof(float)));
    uint16_t* panel = static_cast<uint16_t*>(std::malloc(std::max<int64_t>(pairs * columns * 4, 1)));
#pragma omp for schedule(static)
    for (int64_t start = 0; start < tokens; start += kTokens) {
      const int64_t count = std::min(kTokens, tokens - start);
      for (int64_t t = 0; t < count; ++t) {
        float* row = rows + t * features;
        load(s, start + t, row);
        if (matrix) correct(s, row, spare);
        if (means) {
          const float* mean = means + state[start + t] * features;
          for (int64_t i = 0; i < features; ++i) row[i] -= mean[i];
        }
        if (directions) split(s, start + t, row, coefficients);
        if (signs)
          for (int64_t i = 0; i < features; ++i) row[i] *= signs[i];
        if (left) times_right(s, row, spare);
      }
      if (left) times_left(s, count, rows, panel, spare);
      for (int64_t t = 0; t < count; ++t) quantize(s, start + t, rows + t * features, codes, scale, zero);
    }
    std::free(rows);
    std::free(spare);
    std::free(panel);
  }
}
