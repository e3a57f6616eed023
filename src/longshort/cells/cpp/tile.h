// One tile of a matrix product, held in registers: C[r][lanes] += sum over k of A[r][k] * B[k][lanes].
#pragma once
#include "vec.h"

namespace VARIANT {

#if WIDTH == 16 || defined(__aarch64__)
constexpr int ROWS = 6;  // 32 vector registers: 6 x 4 sums, 4 of B, and one of A
#else
constexpr int ROWS = 3;  // 16
#endif
constexpr int PANELS = 4;  // vectors beside one another

// Where the numbers of a product lie. B is packed: panels of W lanes, each with its k one after the other.
struct Strides {
    int64_t a_row, a_k, b_k, b_panel, c_row;
};

struct Nothing {
    ALWAYS void operator()(int) const {}
};

// sum[r][v] += A[r] * B[v], for one k.
template <int MR, int NV>
ALWAYS void add_product(V (&sum)[MR][NV], const float* A, int64_t a_row, const float* B, int64_t b_panel) {
    V a[MR], b[NV];
    if (MR < NV) {  // the fewer are held in registers
        UNROLL for (int r = 0; r < MR; r++) a[r] = splat(A[r * a_row]);
        UNROLL for (int v = 0; v < NV; v++) {
            b[v] = load(B + v * b_panel);
            UNROLL for (int r = 0; r < MR; r++) sum[r][v] += a[r] * b[v];
        }
    } else {
        UNROLL for (int v = 0; v < NV; v++) b[v] = load(B + v * b_panel);
        UNROLL for (int r = 0; r < MR; r++) {
            a[r] = splat(A[r * a_row]);
            UNROLL for (int v = 0; v < NV; v++) sum[r][v] += a[r] * b[v];
        }
    }
}

// K comes in PARTS with between(part) before each, which must be INLINED, or the sums leave their registers for it. They
// are copied: an array that others know of, clang keeps in memory through the loop. One or two sums alone would wait for
// themselves: there are then several SETS, which take the k in turn.
template <int PARTS = 1, int MR, int NV, class Between = Nothing>
ALWAYS void accumulate(V (&to)[MR][NV], int64_t K, const float* A, int64_t a_row, int64_t a_k, const float* B,
                       int64_t b_k, int64_t b_panel, Between between = {}) {
    constexpr int SETS = MR * NV <= 2 ? 4 : 1;
    V sum[SETS][MR][NV] = {};
    UNROLL for (int r = 0; r < MR; r++)
        UNROLL for (int v = 0; v < NV; v++) sum[0][r][v] = to[r][v];
    int64_t k = 0;
    for (int part = 0; part < PARTS; part++) {
        between(part);
        const int64_t end = K * (part + 1) / PARTS;
        for (; k + SETS <= end; k += SETS)
            UNROLL for (int set = 0; set < SETS; set++)
                add_product(sum[set], A + (k + set) * a_k, a_row, B + (k + set) * b_k, b_panel);
        if (SETS > 1)
            for (; k < end; k++) add_product(sum[0], A + k * a_k, a_row, B + k * b_k, b_panel);
    }
    UNROLL for (int r = 0; r < MR; r++)
        UNROLL for (int v = 0; v < NV; v++) {
            UNROLL for (int set = 1; set < SETS; set++) sum[0][r][v] += sum[set][r][v];
            to[r][v] = sum[0][r][v];
        }
}

// What a product's sums begin with: rows of numbers, `row` apart (0: one for all of them); or null, 0.
struct Start {
    const float* x;
    int64_t row;
};

// `width`: how many lanes of C there are; B has whole vectors.
template <int MR, int NV>
void tile(int64_t K, const float* A, const float* B, Start start, float* C, Strides s, int64_t width, bool past) {
    V sum[MR][NV] = {};
    const bool whole = width >= NV * W;
    if (start.x)
        UNROLL for (int r = 0; r < MR; r++)
            UNROLL for (int v = 0; v < NV; v++) {
                const float* from = start.x + r * start.row + v * W;
                sum[r][v] = whole ? load(from) : load_some(from, width - v * W);
            }
    accumulate(sum, K, A, s.a_row, s.a_k, B, s.b_k, s.b_panel);
    UNROLL for (int r = 0; r < MR; r++)
        UNROLL for (int v = 0; v < NV; v++) {
            float* to = C + r * s.c_row + v * W;
            if (past) store_past(to, sum[r][v]);
            else if (whole) store(to, sum[r][v]);
            else store_some(to, sum[r][v], width - v * W);
        }
}

// A number that the compiler knows: `f` is called with n as one, 1 <= n <= most.
template <int n> struct Known {
    static constexpr int value = n;
};
template <int most, class F> inline void with_known(int64_t n, F f) {
    if constexpr (most > 1) {
        if (n < most) return with_known<most - 1>(n, f);
    }
    f(Known<most>());
}

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t whole(int64_t width) { return ceil_div(width, W) * W; }
inline int64_t to16(int64_t width) { return ceil_div(width, 16) * 16; }
constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most_of(int64_t a, int64_t b) { return a > b ? a : b; }
inline float* align(float* p) { return (float*)(((uintptr_t)p + 63) / 64 * 64); }

// Part i of n even parts of `size` things.
struct Range { int64_t begin, end; };
inline Range part(int64_t size, int64_t i, int64_t n) { return {size * i / n, size * (i + 1) / n}; }

// Calls f(height, beside, row, column) for every tile of rows x width, `height` rows and `beside` vectors of it; from
// the last columns to the first if `backwards`.
template <class F> inline void tiles(int64_t rows, int64_t width, F f, bool backwards = false) {
    const int64_t blocks = ceil_div(rows, ROWS), groups = ceil_div(width, PANELS * W);
    for (int64_t group = 0; group < groups; group++) {
        const int64_t column = (backwards ? groups - 1 - group : group) * PANELS * W;
        const int64_t panels = least(PANELS, ceil_div(width - column, W));
        for (int64_t i = 0; i < blocks; i++) {
            const Range r = part(rows, i, blocks);
            with_known<ROWS>(r.end - r.begin, [&](auto height) {
                with_known<PANELS>(panels, [&](auto beside) { f(height, beside, r.begin, column); });
            });
        }
    }
}

// C (rows x width) = start + A B, which may go past the caches. B in panels of W lanes, taken from the last to the first
// if `backwards`.
inline void product(int64_t rows, int64_t width, int64_t K, const float* A, const float* B, Start start, float* C,
                    Strides s, bool backwards = false, bool past = false) {
    tiles(rows, width, [&](auto height, auto beside, int64_t row, int64_t column) {
        const float* x = start.x ? start.x + row * start.row + column : nullptr;
        tile<height.value, beside.value>(K, A + row * s.a_row, B + column / W * s.b_panel, {x, start.row},
                                         C + row * s.c_row + column, s, width - column, past);
    }, backwards);
}

// x w^T for MR rows of x and W rows of w (of the last, `lanes`; 0 beyond) without packing: a few rows of x are not worth
// it. As many rows of w and x at a time as there are registers for their sums.
template <int MR>
ALWAYS void dots(const float* w, int64_t w_row, int64_t lanes, int64_t K, const float* x, int64_t x_row, V (&to)[MR]) {
    constexpr int BESIDE = W / 2, DEEP = ceil_div(MR, ceil_div(MR, ceil_div(ROWS, 2)));
    V half[MR][2];
    for (int side = 0; side < 2; side++) {
        const float* line[BESIDE];
        UNROLL for (int j = 0; j < BESIDE; j++) line[j] = w + least(side * BESIDE + j, lanes - 1) * w_row;
        for (int r0 = 0; r0 < MR; r0 += DEEP) {
            const int first = least(r0, MR - DEEP);  // a row may be summed twice
            V part[DEEP][BESIDE] = {};
            const auto add = [&](int64_t k, int64_t n) INLINED {
                V a[DEEP];
                UNROLL for (int r = 0; r < DEEP; r++) a[r] = load_some(x + (first + r) * x_row + k, n);
                UNROLL for (int j = 0; j < BESIDE; j++) {
                    const V b = load_some(line[j] + k, n);
                    UNROLL for (int r = 0; r < DEEP; r++) part[r][j] += b * a[r];
                }
            };
            int64_t k = 0;
            for (; k + W <= K; k += W) add(k, W);
            if (k < K) add(k, K - k);
            UNROLL for (int r = 0; r < DEEP; r++) half[first + r][side] = Fold<BESIDE>::all(part[r]);
        }
    }
    UNROLL for (int r = 0; r < MR; r++) {
        to[r] = Fold<2>::all(half[r]);
        if (lanes < W) to[r] = lane_numbers() < (int32_t)lanes ? to[r] : V{};
    }
}

// The first W of some rows (or fewer, or none) as a panel: for each column W lanes, `to_row` apart, 0 where no row is.
inline void to_panel(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
    for (int64_t k = 0; k < columns; k += W) {
        V x[W];
        UNROLL for (int lane = 0; lane < W; lane++)
            x[lane] = lane < rows ? load_some(from + lane * from_row + k, columns - k) : V{};
        turn(x);
        if (columns - k >= W)
            UNROLL for (int r = 0; r < W; r++) store(to + (k + r) * to_row, x[r]);
        else
            for (int64_t r = 0; r < columns - k; r++) store(to + (k + r) * to_row, x[r]);
    }
}

// to (columns x rows) = from (rows x columns); both filled up with 0, the rows to 16, the columns to a whole vector.
inline void transpose(const float* from, int64_t from_row, int64_t rows, int64_t columns, float* to, int64_t to_row) {
    for (int64_t i = 0; i < to16(rows); i += W)
        for (int64_t j = 0; j < columns; j += W) {
            V x[W];
            UNROLL for (int r = 0; r < W; r++)
                x[r] = i + r < rows ? load_some(from + (i + r) * from_row + j, columns - j) : V{};
            turn(x);
            UNROLL for (int r = 0; r < W; r++) store(to + (j + r) * to_row + i, x[r]);
        }
}

}  // namespace VARIANT
