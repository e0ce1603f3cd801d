// Strassen's algorithm, two levels deep, on codes of few bits: 49 products of quarters instead of 64.
//
// Sums and differences of four codes of at most four bits (activations: six) are exact in eight bits, so the integers are
// those of the plain product. A level is Strassen's of 1969; additions ride on laying out the operands, and a product's
// accumulators are added where they count (Huang et al., Strassen's Algorithm Reloaded, SC 2016).
#pragma once
#include "vector.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace strassen {

constexpr int kProducts = 49;
constexpr int kRows = 48;          // tokens of a tile, in quarters of 12
constexpr int kColumns = 128;      // outputs of a tile, in quarters of 32
constexpr int kLargestCode = 63;   // of activations: sums of four fill a byte
constexpr int64_t kDepth = 256;    // words of four codes in a quarter, at most: what is laid out stays in the caches
constexpr int64_t kBlock = 11;     // tiles that are laid out at a time
constexpr int kTable[3][7][4] = {
    {{1, 0, 0, 1}, {0, 0, 1, 1}, {1, 0, 0, 0}, {0, 0, 0, 1}, {1, 1, 0, 0}, {-1, 0, 1, 0}, {0, 1, 0, -1}},
    {{1, 0, 0, 1}, {1, 0, 0, 0}, {0, 1, 0, -1}, {-1, 0, 1, 0}, {0, 0, 0, 1}, {1, 1, 0, 0}, {0, 0, 1, 1}},
    {{1, 0, 0, 1}, {0, 0, 1, -1}, {0, 1, 0, 1}, {1, 0, 1, 0}, {-1, 1, 0, 0}, {0, 0, 0, 1}, {1, 0, 0, 0}},
};
enum Operand { kLeft, kRight, kResult };

// The quarters of an operand that a product takes, or is added to: at most four of the 4 x 4.
struct Terms {
  int count = 0, negative = 0;
  int row[4] = {}, column[4] = {};
};

// Those that are added come first.
constexpr Terms terms_of(Operand operand, int product) {
  Terms found;
  for (int wanted = 1; wanted >= -1; wanted -= 2) {
    for (int outer = 0; outer < 4; ++outer) {
      for (int inner = 0; inner < 4; ++inner) {
        if (kTable[operand][product / 7][outer] * kTable[operand][product % 7][inner] != wanted) continue;
        found.row[found.count] = outer / 2 * 2 + inner / 2;
        found.column[found.count++] = outer % 2 * 2 + inner % 2;
        found.negative += wanted < 0;
      }
    }
  }
  return found;
}

struct Plan {
  Terms terms[3][kProducts];
};

constexpr Plan make_plan() {
  Plan plan;
  for (int operand = 0; operand < 3; ++operand)
    for (int p = 0; p < kProducts; ++p) plan.terms[operand][p] = terms_of(static_cast<Operand>(operand), p);
  return plan;
}

constexpr Plan kPlan = make_plan();

inline __m512i signed_sum(__m512i sum, int sign, __m512i x) {
  return sign == 0 ? sum : sign > 0 ? _mm512_add_epi8(sum, x) : _mm512_sub_epi8(sum, x);
}

// Adds up the quarters of a product, for all products: level by level, in registers.
// quarters [4][4]; to: one vector a product, `stride` bytes apart; differences are lifted by kLift each.
template <Operand kOperand, int kLift>
inline void add_up(const __m512i (&quarters)[4][4], uint8_t* to, int64_t stride) {
#pragma GCC unroll 7
  for (int outer = 0; outer < 7; ++outer) {
    __m512i sums[4];
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      sums[q] = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t)
        sums[q] = signed_sum(sums[q], kTable[kOperand][outer][t], quarters[t / 2 * 2 + q / 2][t % 2 * 2 + q % 2]);
    }
#pragma GCC unroll 7
    for (int inner = 0; inner < 7; ++inner, to += stride) {
      const int negative = kPlan.terms[kOperand][outer * 7 + inner].negative;
      __m512i sum = _mm512_set1_epi8(static_cast<char>(kLift * negative));
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) sum = signed_sum(sum, kTable[kOperand][inner][t], sums[t]);
      _mm512_storeu_si512(to, sum);
    }
  }
}

// Lays out the activations of a tile. codes [4 * rows, 16 * depth], the first `valid` of them there, `k` bytes apart; turned:
// room for as many bytes and a vector; to: four codes a word, [product][depth][rows], products `stride` bytes apart, differences
// lifted.
inline void lay_rows(const uint8_t* codes, int64_t k, int64_t depth, int rows, int64_t valid, uint8_t* turned, uint8_t* to,
                     int64_t stride) {
  const int64_t quarter = depth * rows * 4;
  uint8_t* at = turned;
  for (int q = 0; q < 16; ++q) {
    const uint8_t* from = codes + q / 4 * rows * k + q % 4 * depth * 4;
    for (int64_t g = 0; g < depth; g += 16) {
      const int words = static_cast<int>(std::min<int64_t>(16, depth - g));
      __m512i block[16];
#pragma GCC unroll 16
      for (int row = 0; row < 16; ++row) {
        const bool there = row < rows && q / 4 * rows + row < valid;
        block[row] = _mm512_maskz_loadu_epi32(there ? first(words) : 0, from + row * k + g * 4);
      }
      transpose(block);
      // A vector reaches beyond its rows, into the place of the next one.
      for (int word = 0; word < words; ++word, at += rows * 4) _mm512_storeu_si512(at, block[word]);
    }
  }
  for (int64_t i = 0; i < quarter; i += 64) {
    __m512i quarters[4][4];
    for (int q = 0; q < 16; ++q) quarters[q / 4][q % 4] = _mm512_loadu_si512(turned + q * quarter + i);
    add_up<kLeft, kLargestCode>(quarters, to + i, stride);
  }
}

// Lays out the weights of a tile. packed: two panels of 64 outputs, `panel` bytes apart, [2 * depth][64][4], a byte with two
// codes; to [product][depth][32][4], products `stride` bytes apart; start [product][32]: where accumulators start, to take back
// what lifting the activations adds.
inline void lay_columns(const uint8_t* packed, int64_t panel, int64_t depth, uint8_t* to, int64_t stride, int32_t* start) {
  const __m512i ones = _mm512_set1_epi8(1), low = _mm512_set1_epi8(15);
  for (int half = 0; half < 2; ++half) {
    const auto quarter = [&](int q) {
      return packed + (q % 4 / 2) * panel + q / 4 * depth * 128 + (q % 2) * 128 + half * 64;
    };
    __m512i totals[4][4];
    for (int q = 0; q < 16; ++q) {
      const uint8_t* from = quarter(q);
      __m512i total = _mm512_setzero_si512();
      for (int64_t g = 0; g < depth; g += 2) {
        const __m512i both = _mm512_loadu_si512(from + g * 128);
        const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        total = _mm512_dpbusd_epi32(total, ones, _mm512_add_epi8(_mm512_and_si512(both, low), high));
      }
      totals[q / 4][q % 4] = total;
    }
    for (int64_t g = 0; g < depth; ++g) {
      const __m128i shift = _mm_cvtsi32_si128(g % 2 * 4);
      __m512i codes[4][4];
#pragma GCC unroll 16
      for (int q = 0; q < 16; ++q) {
        const __m512i both = _mm512_loadu_si512(quarter(q) + g / 2 * 256);
        codes[q / 4][q % 4] = _mm512_and_si512(_mm512_srl_epi16(both, shift), low);
      }
      add_up<kRight, 0>(codes, to + g * 128 + half * 64, stride);
    }
    for (int p = 0; p < kProducts; ++p) {
      const Terms& terms = kPlan.terms[kRight][p];
      __m512i sum = _mm512_setzero_si512();
      for (int t = 0; t < terms.count; ++t) {
        const __m512i total = totals[terms.row[t]][terms.column[t]];
        sum = t < terms.count - terms.negative ? _mm512_add_epi32(sum, total) : _mm512_sub_epi32(sum, total);
      }
      const __m512i lifted = _mm512_set1_epi32(-kPlan.terms[kLeft][p].negative * kLargestCode);
      _mm512_storeu_si512(start + p * 32 + half * 16, _mm512_mullo_epi32(sum, lifted));
    }
  }
}

// Rows of memory, `pitch` bytes apart, that will be written soon.
struct Later {
  const char* at;
  int64_t pitch, rows;
};

// Adds the product of laid out operands to sums [4 * kM, 128]; asks for what is written next meanwhile, a row a product.
template <int kM>
void multiply(const uint8_t* a, int64_t a_stride, const uint8_t* b, int64_t b_stride, const int32_t* start, int64_t depth,
              int32_t* sums, const Later& next) {
  for (int p = 0; p < kProducts; ++p, a += a_stride, b += b_stride) {
    if (p < next.rows)
      for (int i = 0; i < 4; ++i) __builtin_prefetch(next.at + p * next.pitch + i * 64, 1);
    __m512i acc[kM][2];
    const __m512i start0 = _mm512_loadu_si512(start + p * 32), start1 = _mm512_loadu_si512(start + p * 32 + 16);
#pragma GCC unroll 12
    for (int i = 0; i < kM; ++i) acc[i][0] = start0, acc[i][1] = start1;
    for (int64_t g = 0; g < depth; ++g) {
      const __m512i b0 = _mm512_loadu_si512(b + g * 128), b1 = _mm512_loadu_si512(b + g * 128 + 64);
#pragma GCC unroll 12
      for (int i = 0; i < kM; ++i) {
        int32_t four;
        std::memcpy(&four, a + (g * kM + i) * 4, 4);
        const __m512i x = _mm512_set1_epi32(four);
        acc[i][0] = _mm512_dpbusd_epi32(acc[i][0], x, b0);
        acc[i][1] = _mm512_dpbusd_epi32(acc[i][1], x, b1);
      }
    }
    const Terms& terms = kPlan.terms[kResult][p];
    for (int t = 0; t < terms.count; ++t) {
      int32_t* to = sums + terms.row[t] * kM * kColumns + terms.column[t] * 32;
      const bool minus = t >= terms.count - terms.negative;
#pragma GCC unroll 12
      for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; ++v) {
          int32_t* at = to + i * kColumns + v * 16;
          const __m512i old = _mm512_loadu_si512(at);
          _mm512_storeu_si512(at, minus ? _mm512_sub_epi32(old, acc[i][v]) : _mm512_add_epi32(old, acc[i][v]));
        }
      }
    }
  }
}

inline bool pays(int64_t m, int64_t k, int largest) {
  return m >= 128 && k >= 512 && k % 64 == 0 && largest <= kLargestCode;
}

}  // namespace strassen
