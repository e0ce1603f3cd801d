// Bidirectional attention with grouped-query heads, for AVX512-BF16.
//
// Products are of words, each a pair of bfloat16, summed in float32. Keys are laid out once a head in panels of 64,
// word [pair of channels][key], and values as word [pair of keys][channel]. A task takes 48 queries of a head through
// blocks of keys; sums and outputs are rescaled from block to block, so that scores never take more than a block.
#include "vector.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace {

constexpr int64_t kQueries = 48;               // of a task
constexpr int64_t kBlock = 512;                // keys whose scores are kept
constexpr int64_t kPanel = 64;                 // keys of a panel: four vectors of sixteen words
constexpr int64_t kScoreStride = kBlock + 16;  // no power of two, whose rows would share cache sets
constexpr int kRows = 6;                       // queries of a tile: 24 accumulators

// bfloat16 [batch, heads, rows, channels] with adjacent channels; strides in elements.
struct View {
  const uint16_t* at;
  int64_t batch, head, row;

  const uint16_t* operator()(int64_t b, int64_t h, int64_t r) const { return at + b * batch + h * head + r * row; }
};

// float32 [batch, heads, queries, keys] with adjacent keys, added to the scores; null = none.
struct Mask {
  const float* at;
  int64_t batch, head, row;
};

struct Attention {
  View q, k, v;
  Mask mask;
  float scale;
  uint16_t* out;  // [batch, queries, heads, channels]
  int64_t batch, heads, kv_heads, queries, keys, channels;

  int64_t words() const { return (channels + 1) / 2; }              // of a query or key
  int64_t word_stride() const { return (words() + 15) / 16 * 16; }  // between them, in whole vectors
  int64_t columns() const { return (channels + 15) / 16 * 16; }     // of values, in whole vectors
};

template <typename T>
T* room(int64_t count) {
  return static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64));
}

// Copies the channels of one query or key, with zeros up to whole vectors.
void copy_row(const uint16_t* from, int64_t channels, uint32_t* to) {
  for (int64_t c = 0; c < channels; c += 32, to += 16) {
    const __mmask32 mask = first(channels - c) | static_cast<__mmask32>(first(channels - c - 16)) << 16;
    _mm512_store_si512(to, _mm512_maskz_loadu_epi16(mask, from + c));
  }
}

// Transposes sixteen rows of sixteen words in memory.
void transpose(const uint32_t* from, int64_t from_stride, uint32_t* to, int64_t to_stride) {
  __m512i row[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) row[i] = _mm512_loadu_si512(from + i * from_stride);
  transpose(row);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * to_stride, row[i]);
}

// Lays one panel of keys out, with zeros beyond the last one; rows has room for the panel.
void lay_keys(const Attention& a, int64_t batch, int64_t head, int64_t start, uint32_t* rows, uint32_t* to) {
  const int64_t keys = std::min(kPanel, a.keys - start), stride = a.word_stride();
  for (int64_t i = 0; i < keys; ++i) copy_row(a.k(batch, head, start + i), a.channels, rows + i * stride);
  std::memset(rows + keys * stride, 0, (kPanel - keys) * stride * sizeof(uint32_t));
  for (int64_t w = 0; w < stride; w += 16)
    for (int64_t i = 0; i < kPanel; i += 16) transpose(rows + i * stride + w, stride, to + w * kPanel + i, kPanel);
}

// Lays the values of one panel of keys out.
void lay_values(const Attention& a, int64_t batch, int64_t head, int64_t start, uint32_t* to) {
  const int64_t end = std::min(start + kPanel, a.keys);
  for (int64_t i = start; i < end; i += 2) {
    const uint16_t* row = a.v(batch, head, i);
    for (int64_t c = 0; c < a.channels; c += 16, to += 16) {
      const __mmask16 mask = first(a.channels - c), paired = i + 1 < end ? mask : 0;
      const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, row + c));
      const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(paired, row + a.v.row + c));
      _mm512_store_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
  }
}

// Products of kM rows of words with kV vectors of columns; finish(row, sums) takes the results.
template <int kM, int kV, typename Finish>
inline __attribute__((always_inline)) void tile(const uint32_t* left, int64_t left_stride, const uint32_t* right,
                                                int64_t right_stride, int64_t words, Finish finish) {
  __m512 sum[kM][kV];
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) sum[i][v] = _mm512_setzero_ps();
  }
  for (int64_t w = 0; w < words; ++w) {
    __m512bh column[kV];
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) column[v] = (__m512bh)_mm512_load_si512(right + w * right_stride + v * 16);
#pragma GCC unroll 6
    for (int i = 0; i < kM; ++i) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(static_cast<int32_t>(left[i * left_stride + w]));
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], x, column[v]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kM; ++i) finish(i, sum[i]);
}

// The same for any number of rows.
template <int kV, typename Finish>
void product(int64_t rows, const uint32_t* left, int64_t left_stride, const uint32_t* right, int64_t right_stride,
             int64_t words, Finish finish) {
  for (int64_t row = 0; row < rows; row += kRows) {
    const uint32_t* from = left + row * left_stride;
    const auto shifted = [&](int64_t i, const __m512* sum) { finish(row + i, sum); };
    switch (rows - row) {
      case 1: tile<1, kV>(from, left_stride, right, right_stride, words, shifted); break;
      case 2: tile<2, kV>(from, left_stride, right, right_stride, words, shifted); break;
      case 3: tile<3, kV>(from, left_stride, right, right_stride, words, shifted); break;
      case 4: tile<4, kV>(from, left_stride, right, right_stride, words, shifted); break;
      case 5: tile<5, kV>(from, left_stride, right, right_stride, words, shifted); break;
      default: tile<kRows, kV>(from, left_stride, right, right_stride, words, shifted);
    }
  }
}

// What a thread keeps of its task.
struct Scratch {
  uint32_t* queries;  // [48, word stride]; 64 rows, for a panel of keys before the queries
  float* scores;      // [48, kScoreStride], then bfloat16 weights in the first half of each row
  float* peaks;       // [48, 16]: the largest scores of a block
  float* out;         // [48, columns], not yet divided by the sums of the weights
  float peak[kQueries], sum[kQueries];

  explicit Scratch(const Attention& a)
      : queries(room<uint32_t>(kPanel * a.word_stride())),
        scores(room<float>(kQueries * kScoreStride)),
        peaks(room<float>(kQueries * 16)),
        out(room<float>(kQueries * a.columns())) {}
  Scratch(const Scratch&) = delete;
  ~Scratch() {
    for (void* made : {static_cast<void*>(queries), static_cast<void*>(scores), static_cast<void*>(peaks),
                       static_cast<void*>(out)})
      std::free(made);
  }
};

// Scores of queries and a block of keys, and the largest ones; scaled only if there is a mask.
void score(const Attention& a, int64_t rows, const float* mask, int64_t start, int64_t end, const uint32_t* keys,
           Scratch& s) {
  const __m512 scale = _mm512_set1_ps(a.scale), lowest = _mm512_set1_ps(-INFINITY);
  for (int64_t i = 0; i < rows; ++i) _mm512_store_ps(s.peaks + i * 16, lowest);
  for (int64_t key = start; key < end; key += kPanel) {
    __mmask16 valid[4];
    for (int v = 0; v < 4; ++v) valid[v] = first(end - key - v * 16);
    const auto finish = [&](int64_t i, const __m512* sum) {
      __m512 peak = _mm512_load_ps(s.peaks + i * 16);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        __m512 x = sum[v];
        if (mask) x = _mm512_fmadd_ps(x, scale, _mm512_maskz_loadu_ps(valid[v], mask + i * a.mask.row + key + v * 16));
        x = _mm512_mask_mov_ps(lowest, valid[v], x);
        peak = _mm512_max_ps(peak, x);
        _mm512_store_ps(s.scores + i * kScoreStride + key - start + v * 16, x);
      }
      _mm512_store_ps(s.peaks + i * 16, peak);
    };
    product<4>(rows, s.queries, a.word_stride(), keys + key * a.word_stride(), kPanel, a.words(), finish);
  }
}

// Puts 2^(scale * score - peak) in the place of a row's scores, and rescales what was summed with an earlier peak.
void weigh(int64_t row, int64_t keys, int64_t columns, float scale, Scratch& s) {
  const float peak = std::max(s.peak[row], scale * _mm512_reduce_max_ps(_mm512_load_ps(s.peaks + row * 16)));
  if (peak != s.peak[row] && s.sum[row] != 0) {
    const float by = std::exp2(s.peak[row] - peak);
    for (int64_t c = 0; c < columns; ++c) s.out[row * columns + c] *= by;
    s.sum[row] *= by;
  }
  s.peak[row] = peak;
  const __m512 times = _mm512_set1_ps(scale);
  const __m512 origin = _mm512_set1_ps(peak == -INFINITY ? 0 : peak);  // where all is masked, weights are 0
  float* scores = s.scores + row * kScoreStride;
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < keys; i += 32) {
    const __m512 low = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(scores + i), times, origin));
    const __m512 high = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(scores + i + 16), times, origin));
    sum = _mm512_add_ps(sum, _mm512_add_ps(low, high));
    _mm512_store_si512(reinterpret_cast<uint16_t*>(scores) + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
  s.sum[row] += _mm512_reduce_add_ps(sum);
}

// Adds the weighted values of a block, kV vectors of columns.
template <int kV>
void mix(int64_t rows, int64_t words, const uint32_t* values, int64_t columns, const float* weights, float* out) {
  const auto* left = reinterpret_cast<const uint32_t*>(weights);
  product<kV>(rows, left, kScoreStride, values, columns, words, [&](int64_t i, const __m512* sum) {
#pragma GCC unroll 4
    for (int v = 0; v < kV; ++v) {
      float* to = out + i * columns + v * 16;
      _mm512_store_ps(to, _mm512_add_ps(_mm512_load_ps(to), sum[v]));
    }
  });
}

using Mix = void (*)(int64_t, int64_t, const uint32_t*, int64_t, const float*, float*);
constexpr Mix kMix[] = {mix<1>, mix<2>, mix<3>, mix<4>};

// Attention of one task's queries.
void attend(const Attention& a, int64_t batch, int64_t head, int64_t query, const uint32_t* keys,
            const uint32_t* values, Scratch& s) {
  const int64_t rows = std::min(kQueries, a.queries - query), columns = a.columns();
  const Mask& m = a.mask;
  const float* mask = m.at ? m.at + batch * m.batch + head * m.head + query * m.row : nullptr;
  for (int64_t i = 0; i < rows; ++i) {
    copy_row(a.q(batch, head, query + i), a.channels, s.queries + i * a.word_stride());
    s.peak[i] = -INFINITY;
    s.sum[i] = 0;
  }
  std::fill_n(s.out, rows * columns, 0.0f);
  for (int64_t start = 0; start < a.keys; start += kBlock) {
    const int64_t end = std::min(start + kBlock, a.keys);
    score(a, rows, mask, start, end, keys, s);
    for (int64_t i = 0; i < rows; ++i) weigh(i, end - start, columns, mask ? 1 : a.scale, s);
    for (int64_t c = 0; c < columns; c += 64) {
      const Mix add = kMix[std::min<int64_t>((columns - c) / 16, 4) - 1];
      add(rows, (end - start + 1) / 2, values + start / 2 * columns + c, columns, s.scores, s.out + c);
    }
  }
  for (int64_t i = 0; i < rows; ++i) {
    const __m512 by = _mm512_set1_ps(s.sum[i] == 0 ? 0 : 1 / s.sum[i]);
    uint16_t* to = a.out + ((batch * a.queries + query + i) * a.heads + head) * a.channels;
    for (int64_t c = 0; c < a.channels; c += 16) {
      const __m512 y = _mm512_mul_ps(_mm512_load_ps(s.out + i * columns + c), by);
      _mm256_mask_storeu_epi16(to + c, first(a.channels - c), (__m256i)_mm512_cvtneps_pbh(y));
    }
  }
}

void run(const Attention& a, int threads) {
  const int64_t panels = (a.keys + kPanel - 1) / kPanel, tiles = (a.queries + kQueries - 1) / kQueries;
  const int64_t key_words = panels * kPanel * a.word_stride(), value_words = panels * kPanel / 2 * a.columns();
  uint32_t* keys = room<uint32_t>(a.batch * a.kv_heads * key_words);
  uint32_t* values = room<uint32_t>(a.batch * a.kv_heads * value_words);
#pragma omp parallel num_threads(threads)
  {
    Scratch s(a);
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a.batch * a.kv_heads * panels; ++i) {
      // Heads go fastest, as they stand in memory.
      const int64_t h = i % a.kv_heads, start = i / a.kv_heads % panels * kPanel, b = i / a.kv_heads / panels;
      const int64_t head = b * a.kv_heads + h;
      lay_keys(a, b, h, start, s.queries, keys + head * key_words + start * a.word_stride());
      lay_values(a, b, h, start, values + head * value_words + start / 2 * a.columns());
    }
#pragma omp for schedule(dynamic)
    for (int64_t i = 0; i < a.batch * a.heads * tiles; ++i) {
      const int64_t b = i / tiles / a.heads, h = i / tiles % a.heads;
      const int64_t head = b * a.kv_heads + h * a.kv_heads / a.heads;
      attend(a, b, h, i % tiles * kQueries, keys + head * key_words, values + head * value_words, s);
    }
  }
  std::free(keys);
  std::free(values);
}

}  // namespace

// Strides in elements. q [batch, heads, queries, channels], k and v [batch, kv_heads, keys, channels] bfloat16; mask
// float32 [batch, heads, queries, keys] or null, and scale [1], positive, both in units of log 2; out bfloat16 [batch,
// queries, heads, channels]. A query whose keys are all masked by -Inf gets 0.
extern "C" int64_t starquant_attention(const uint16_t* q, int64_t q_batch, int64_t q_head, int64_t q_row,
                                       const uint16_t* k, int64_t k_batch, int64_t k_head, int64_t k_row,
                                       const uint16_t* v, int64_t v_batch, int64_t v_head, int64_t v_row,
                                       const float* mask, int64_t mask_batch, int64_t mask_head, int64_t mask_row,
                                       const float* scale, uint16_t* out, int64_t batch, int64_t heads,
                                       int64_t kv_heads, int64_t queries, int64_t keys, int64_t channels,
                                       int64_t threads) {
  run({{q, q_batch, q_head, q_row},
       {k, k_batch, k_head, k_row},
       {v, v_batch, v_head, v_row},
       {mask, mask_batch, mask_head, mask_row},
       *scale,
       out,
       batch,
       heads,
       kv_heads,
       queries,
       keys,
       channels},
      static_cast<int>(threads));
  return 0;
}
