// A sequence through an mLSTM, chunk by chunk: cells/mlstm.py's chunkwise form, with the same names.
//
// A thread takes one head of one row through time. A chunk's tiles stay in its cache; of what lies above the diagonal
// almost nothing is computed; and the backward computes a chunk anew from the state it began with.
#pragma once
#include "shared.h"
#include "tile.h"

namespace VARIANT {

// The last floor of the denominator: far below rounding, it turns 0/0 into 0. The square of float32's epsilon.
constexpr float LEAST_FLOOR = 1.1920929e-07f * 1.1920929e-07f;

inline float sum_of(V x) {
    float y = 0;
    for (int j = 0; j < W; j++) y += x[j];
    return y;
}
inline float dot(const float* a, const float* b, int64_t n) {  // n whole vectors
    V sum = {};
    for (int64_t j = 0; j < n; j += W) sum += load(a + j) * load(b + j);
    return sum_of(sum);
}
inline V floor_of(V m) { return vmax(exp(-m), splat(LEAST_FLOOR)); }
inline float exp1(float x) { return exp(splat(x))[0]; }
inline float max1(float a, float b) { return a > b || a != a ? a : b; }  // NaN stays

// One head of one row: its chunk, in this thread's own room. Widths are whole vectors: K1, V1, L1.
struct Chunk {
    const Memory& s;
    int64_t K1, V1, L1, b, n, length;
    // Of the chunk: q over sqrt K; the same times `read`; k; k times `write`; v; and what they make.
    float *q, *q_read, *k, *k_write, *v, *turned, *S, *weight, *C, *N1;
    float *log_f, *slope, *i, *decay, *m, *read, *write, *den, *bound;
    float m_start, carry, scale = 1.f / __builtin_sqrtf((float)s.K);
    // Backward.
    float *dS, *dnum, *dq, *dk, *dv, *dC, *dn, *turned_C, *h, *dden, *dread, *dwrite, *passing;

    static int64_t room(const Memory& s, bool backward) {
        const int64_t K1 = to16(s.K), V1 = to16(s.V), L1 = to16(s.L), more = backward;
        return L1 * (4 * K1 + V1 + 2 * L1) + most_of(K1, V1) * L1 + K1 * (V1 + 1) + 14 * L1 + 64 +
               more * (L1 * (L1 + 3 * V1 + 2 * K1) + 2 * K1 * (V1 + 1));
    }

    Chunk(const Memory& s, float* p, bool backward) : s(s), K1(to16(s.K)), V1(to16(s.V)), L1(to16(s.L)) {
        auto take = [&](float*& x, int64_t size) { x = p, p += size; };
        take(q, L1 * K1), take(q_read, L1 * K1), take(k, L1 * K1), take(k_write, L1 * K1), take(v, L1 * V1);
        take(turned, most_of(K1, V1) * L1), take(S, L1 * L1), take(weight, L1 * L1), take(C, K1 * V1);
        take(N1, K1);
        float** rows[] = {&log_f, &slope, &i, &decay, &m, &read, &write, &den, &bound, &dden, &dread, &dwrite, &passing};
        for (float** row : rows) take(*row, L1);
        if (!backward) return;
        take(dS, L1 * L1), take(dnum, L1 * V1), take(dv, L1 * V1), take(h, L1 * V1);
        take(dq, L1 * K1), take(dk, L1 * K1), take(dC, K1 * V1), take(turned_C, K1 * V1), take(dn, K1);
    }

    // Rows of `width` numbers into rows of whole vectors, the rest 0.
    static void copy(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t width,
                     float scale) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < to_row; j += W)
                store(to + r * to_row + j, j < width ? load_some(from + r * from_row + j, width - j) * scale : V{});
    }
    static void give(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t width) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < width; j += W)
                store_some(to + r * to_row + j, load(from + r * from_row + j), width - j);
    }

    // Line after line of what the next chunk needs, while this one is being computed.
    int64_t next = -1, next_l = 0;
    void fetch(const float* x, int64_t x_b, int64_t x_t, int64_t x_n, int64_t width, int64_t r0, int64_t r1) const {
        if (next < 0) return;
        const float* from = x + b * x_b + next * x_t + n * x_n;
        for (int64_t r = r0; r < least(r1, next_l); r++)
            for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(from + r * x_t + j);
    }
    void coming(int64_t t0) { next = t0, next_l = least(s.L, length - t0); }

    // Steps t0 .. t0 + l of the inputs.
    void take_in(int64_t t0, int64_t l) {
        copy(q, K1, s.q + b * s.q_b + t0 * s.q_t + n * s.q_n, s.q_t, l, s.K, scale);
        copy(k, K1, s.k + b * s.k_b + t0 * s.k_t + n * s.k_n, s.k_t, l, s.K, 1);
        copy(v, V1, s.v + b * s.v_b + t0 * s.v_t + n * s.v_n, s.v_t, l, s.V, 1);
        for (int64_t t = 0; t < L1; t++) {
            const int64_t at = t0 + t;
            const bool there = t < l;
            i[t] = there ? s.i_pre[b * s.i_b + at * s.i_t + n * s.i_n] : 0;
            log_f[t] = there ? s.f_pre[b * s.f_b + at * s.f_t + n * s.f_n] : 0;
        }
        for (int64_t t = 0; t < L1; t += W) {
            const LogSigmoid gate = log_sigmoid(load(log_f + t));
            store(log_f + t, gate.value), store(slope + t, gate.slope);
        }
        if (s.reset)
            for (int64_t t = 0; t < l; t++)
                if (s.reset[b * s.T + t0 + t]) log_f[t] = -__builtin_inff(), slope[t] = 0;
    }

    // The stabiliser, and every weight. D[t][j] = log f_{j+1} + ... + log f_t + i_j is summed between its two steps.
    void weigh(int64_t l) {
        float from_start = m_start, peak = -__builtin_inff(), decayed = 0;
        for (int64_t t = 0; t < l; t++) {
            decayed += log_f[t];
            from_start = decayed + m_start;
            peak = max1(peak + log_f[t], i[t]);  // the largest of D[t]: sums in the same order
            decay[t] = from_start;
            m[t] = max1(max1(from_start, peak), 0);
        }
        for (int64_t t = 0; t < l; t++) decay[t] -= m[t];
        for (int64_t t = l; t < L1; t++) decay[t] = 0;
        for (int64_t t = 0; t < L1; t += W) store(read + t, exp(load(decay + t)));
        carry = read[l - 1];
        float* D = write;  // its last row is what is written
        for (int64_t j = 0; j < L1; j++) D[j] = -__builtin_inff();
        for (int64_t t = 0; t < l; t++) {
            const V f = splat(log_f[t]), top = splat(m[t]);
            for (int64_t j = 0; j <= t; j += W) {
                V d = load(D + j);
                if (j + W > t) {  // the step's own entry has not decayed, and later ones are -inf
                    V own = d + f;
                    own[t - j] = i[t];
                    d = own;
                } else d += f;
                store(D + j, d);
                store(weight + t * L1 + j, exp(d - top));
            }
        }
        for (int64_t j = 0; j < L1; j += W) store(write + j, exp(load(D + j) - splat(m[l - 1])));
        for (int64_t t = 0; t < l; t++)
            for (int64_t j = 0; j < K1; j += W) {
                store(q_read + t * K1 + j, load(q + t * K1 + j) * read[t]);
                store(k_write + t * K1 + j, load(k + t * K1 + j) * write[t]);
            }
    }

    // Calls f(begin, end) for the row blocks of a chunk, the same ones in every product.
    template <class F> static void blocks(int64_t l, F f) {
        const int64_t count = ceil_div(l, ROWS);
        for (int64_t x = 0; x < count; x++) {
            const Range r = part(l, x, count);
            f(r.begin, r.end);
        }
    }

    // S, den and bound: what every step sees of every input, and what its sum is divided by.
    void scores(int64_t t0, int64_t l) {
        transpose(k, K1, l, K1, turned, L1);
        blocks(l, [&](int64_t r0, int64_t r1) {
            fetch(s.q, s.q_b, s.q_t, s.q_n, s.K, r0, r1);
            for (int64_t r = r0; r < r1; r++)  // where h goes: soon to be written
                for (int64_t j = 0; j < s.V; j += 16) __builtin_prefetch(h_at(t0 + r) + j, 1);
            for (int64_t r = r0; r < r1; r++) memset(S + r * L1, 0, whole(r1) * 4);
            product(r1 - r0, whole(r1), s.K, q + r0 * K1, turned, S + r0 * L1, {K1, 1, L1, W, L1});
        });
        for (int64_t first = 0; first < l; first += W) {
            V part[W] = {};
            for (int64_t t = first; t < least(l, first + W); t++) {
                V sum = {};
                for (int64_t j = 0; j <= t; j += W) {
                    const V x = load(S + t * L1 + j) * load(weight + t * L1 + j);
                    store(S + t * L1 + j, x);
                    sum += x;
                }
                for (int64_t j = 0; j < K1; j += W) sum += load(q_read + t * K1 + j) * load(N1 + j);
                part[t - first] = sum;
            }
            store(den + first, sums(part));
        }
        for (int64_t t = l; t < L1; t++) m[t] = 0;
        for (int64_t t = 0; t < L1; t += W) {
            const V d = vabs(load(den + t));
            store(bound + t, vmax(d, floor_of(load(m + t))) + s.eps);
        }
        clear_above(S, l);
    }

    // A row block reaches to the end of its last row: 0 from there back to the end of each row's own vector.
    void clear_above(float* x, int64_t l) const {
        blocks(l, [&](int64_t r0, int64_t r1) {
            for (int64_t r = r0; r < r1; r++)
                for (int64_t j = whole(r + 1); j < whole(r1); j += W) store(x + r * L1 + j, V{});
        });
    }

    // num over bound, straight into h.
    void read_out(int64_t t0, int64_t l, float* out) {
        blocks(l, [&](int64_t r0, int64_t r1) {
            fetch(s.k, s.k_b, s.k_t, s.k_n, s.K, r0, r1), fetch(s.v, s.v_b, s.v_t, s.v_n, s.V, r0, r1);
            for (int64_t r = r0; r < r1; r++) memset(out + r * V1, 0, V1 * 4);
            product(r1 - r0, V1, s.K, q_read + r0 * K1, C, out + r0 * V1, {K1, 1, V1, W, V1});
            product(r1 - r0, V1, r1, S + r0 * L1, v, out + r0 * V1, {L1, 1, V1, W, V1});
        });
        for (int64_t t = 0; t < l; t++) {
            const float part = 1.f / bound[t];
            for (int64_t j = 0; j < s.V; j += W)
                store_some(h_at(t0 + t) + j, load(out + t * V1 + j) * part, s.V - j);
        }
    }

    static void scale_by(float* x, float factor, int64_t size) {
        for (int64_t j = 0; j < size; j += W) store(x + j, load(x + j) * factor);
    }
    // y += sum over t of weight[t] * rows[t].
    static void add_rows(float* y, const float* rows, const float* weights, int64_t l, int64_t width) {
        for (int64_t j = 0; j < width; j += 4 * W) {
            const int count = (int)least(4, (width - j) / W);
            V sum[4] = {};
            for (int64_t t = 0; t < l; t++)
                for (int x = 0; x < count; x++)
                    sum[x] += load(rows + t * width + j + x * W) * (weights ? weights[t] : 1.f);
            for (int x = 0; x < count; x++) store(y + j + x * W, load(y + j + x * W) + sum[x]);
        }
    }

    void write_in(int64_t l) {
        scale_by(C, carry, s.K * V1), scale_by(N1, carry, K1);
        product(s.K, V1, l, k_write, v, C, {1, K1, V1, W, V1});
        add_rows(N1, k_write, nullptr, l, K1);
        m_start = m[l - 1];
    }

    float* h_at(int64_t t) const { return s.h + ((b * s.T + t) * s.N + n) * s.V; }

    int64_t saved_size() const { return s.K * V1 + K1 + 16; }
    float* saved(int64_t chunk) const {
        return s.saved + ((b * s.N + n) * ceil_div(s.T, s.L) + chunk) * saved_size();
    }
    void save(float* to) const {
        memcpy(to, C, s.K * V1 * 4), memcpy(to + s.K * V1, N1, K1 * 4);
        to[s.K * V1 + K1] = m_start;
    }
    void restore(const float* from) {
        memcpy(C, from, s.K * V1 * 4), memcpy(N1, from + s.K * V1, K1 * 4);
        m_start = from[s.K * V1 + K1];
    }

    void begin(int64_t task) {
        b = task / s.N, n = task % s.N, length = s.lengths ? s.lengths[b] : s.T;
        // What stands between the rows' ends and whole vectors is multiplied: it must be finite.
        memset(S, 0, L1 * L1 * 4), memset(C, 0, K1 * V1 * 4), memset(N1, 0, K1 * 4);
    }

    void forward(int64_t task) {
        begin(task);
        copy(C, V1, s.C0 + task * s.K * s.V, s.V, s.K, s.V, 1);
        copy(N1, K1, s.n0 + task * s.K, s.K, 1, s.K, 1);
        m_start = s.m0[task];
        for (int64_t t0 = 0; t0 < length; t0 += s.L) {
            const int64_t l = least(s.L, length - t0);
            if (s.saved) save(saved(t0 / s.L));
            coming(t0 + s.L < length ? t0 + s.L : -1);
            take_in(t0, l), weigh(l), scores(t0, l);
            read_out(t0, l, turned);
            write_in(l);
        }
        for (int64_t t = length; t < s.T; t++) memset(h_at(t), 0, s.V * 4);
        give(s.C + task * s.K * s.V, s.V, C, V1, s.K, s.V), give(s.n + task * s.K, s.K, N1, K1, 1, s.K);
        s.m[task] = m_start;
    }

    // One step alone: C is read and written once.
    void step(int64_t task) {
        b = task / s.N, n = task % s.N;
        const float *C0 = s.C0 + task * s.K * s.V, *n0 = s.n0 + task * s.K;
        const float *q = s.q + b * s.q_b + n * s.q_n, *k = s.k + b * s.k_b + n * s.k_n;
        const float* v = s.v + b * s.v_b + n * s.v_n;
        const float i_pre = s.i_pre[b * s.i_b + n * s.i_n];
        float log_f = log_sigmoid(splat(s.f_pre[b * s.f_b + n * s.f_n])).value[0];
        if (s.reset && s.reset[b * s.T]) log_f = -__builtin_inff();
        const float kept = log_f + s.m0[task], m = max1(max1(kept, i_pre), 0);
        const float i = exp1(i_pre - m), f = exp1(kept - m);
        V dens = {};
        for (int64_t r = 0; r < s.K; r += W) {
            const V now = load_some(n0 + r, s.K - r) * f + load_some(k + r, s.K - r) * i;
            store_some(s.n + task * s.K + r, now, s.K - r);
            dens += now * load_some(q + r, s.K - r);
        }
        const float den = sum_of(dens) * scale, size = den < 0 ? -den : den;
        const float floor = floor_of(splat(m))[0], part = scale / ((size > floor ? size : floor) + s.eps);
        for (int64_t j = 0; j < s.V; j += 4 * W) {
            V num[4] = {}, value[4];
            for (int x = 0; x < 4; x++) value[x] = j + x * W < s.V ? load_some(v + j + x * W, s.V - j - x * W) : V{};
            const bool four = j + 4 * W <= s.V;
            for (int64_t r = 0; r < s.K; r++) {
                const float *from = C0 + r * s.V + j, written = i * k[r], by = q[r];
                float* to = s.C + (task * s.K + r) * s.V + j;
                for (int x = 0; x < 4; x++) {
                    if (!four && j + x * W >= s.V) break;
                    const V now = (four ? load(from + x * W) : load_some(from + x * W, s.V - j - x * W)) * f +
                                  value[x] * written;
                    if (four) store(to + x * W, now);
                    else store_some(to + x * W, now, s.V - j - x * W);
                    num[x] += now * by;
                }
            }
            for (int x = 0; x < 4 && j + x * W < s.V; x++)
                store_some(s.h + task * s.V + j + x * W, num[x] * part, s.V - j - x * W);
        }
        s.m[task] = m;
    }

    // ---- backward: letters as in cells/mlstm.py::chunkwise_backward --------------------------------------------------

    void backward(int64_t task) {
        begin(task);
        memset(dC, 0, K1 * V1 * 4), memset(dn, 0, K1 * 4);
        if (s.d_C) copy(dC, V1, s.d_C + task * s.K * s.V, s.V, s.K, s.V, 1);
        if (s.d_n) copy(dn, K1, s.d_n + task * s.K, s.K, 1, s.K, 1);
        for (int64_t c = ceil_div(length, s.L) - 1; c >= 0; c--) {
            const int64_t t0 = c * s.L, l = least(s.L, length - t0);
            restore(saved(c));
            coming(c ? t0 - s.L : -1);
            take_in(t0, l), weigh(l), scores(t0, l);
            from_h(t0, l), inside(l), across(l);
            const float d_carry = carry * (dot(dC, C, s.K * V1) + dot(dn, N1, K1));
            hand_back(l);
            gates(t0, l, d_carry);
        }
        for (int64_t t = length; t < s.T; t++) {
            const int64_t at = (b * s.T + t) * s.N + n;
            memset(s.d_q + at * s.K, 0, s.K * 4), memset(s.d_k + at * s.K, 0, s.K * 4);
            memset(s.d_v + at * s.V, 0, s.V * 4);
            s.d_i[at] = s.d_f[at] = 0;
        }
        give(s.d_C0 + task * s.K * s.V, s.V, dC, V1, s.K, s.V), give(s.d_n0 + task * s.K, s.K, dn, K1, 1, s.K);
    }

    // d num and d den: h = num / bound, divided by the bound twice, never by its square.
    void from_h(int64_t t0, int64_t l) {
        copy(h, V1, h_at(t0), s.N * s.V, l, s.V, 1);
        if (s.d_h) copy(dnum, V1, s.d_h + b * s.dh_b + t0 * s.dh_t + n * s.dh_n, s.dh_t, l, s.V, 1);
        else memset(dnum, 0, l * V1 * 4);
        for (int64_t first = 0; first < l; first += W) {
            V part[W] = {};
            for (int64_t t = first; t < least(l, first + W); t++) {
                const float over = 1.f / bound[t];
                for (int64_t j = 0; j < V1; j += W) {
                    const V d = load(dnum + t * V1 + j) * over;
                    store(dnum + t * V1 + j, d);
                    part[t - first] += d * load(h + t * V1 + j);
                }
            }
            const V along = sums(part), d = load(den + first), floor = floor_of(load(m + first));
            store(dden + first, vabs(d) > floor ? (d > V{} ? -along : along) : V{});
        }
    }

    // Within the chunk: d S, and what q, k and v get from it.
    void inside(int64_t l) {
        transpose(v, V1, l, V1, turned, L1);
        blocks(l, [&](int64_t r0, int64_t r1) {
            fetch(s.k, s.k_b, s.k_t, s.k_n, s.K, r0, r1), fetch(s.v, s.v_b, s.v_t, s.v_n, s.V, r0, r1);
            for (int64_t r = r0; r < r1; r++)
                for (int64_t j = 0; j < whole(r1); j += W) store(dS + r * L1 + j, splat(dden[r]));
            product(r1 - r0, whole(r1), s.V, dnum + r0 * V1, turned, dS + r0 * L1, {V1, 1, L1, W, L1});
        });
        // d D = d S * S. `below` sums it over the steps from t on: what passes step t lies left of it.
        float* below = turned;
        memset(below, 0, L1 * 4);
        for (int64_t t1 = l; t1 > 0;) {
            const int64_t t0 = (t1 - 1) / W * W;
            V part[W] = {};
            for (int64_t t = t1 - 1; t >= t0; t--) {
                for (int64_t j = 0; j <= t; j += W) {
                    const V d = load(dS + t * L1 + j), sum = load(below + j) + d * load(S + t * L1 + j);
                    store(below + j, sum);
                    store(dS + t * L1 + j, d * load(weight + t * L1 + j));
                    if (j + W <= t) part[t - t0] += sum;
                    else
                        for (int64_t x = j; x < t; x++) part[t - t0][x - j] += sum[x - j];
                }
            }
            store(passing + t0, sums(part));
            t1 = t0;
        }
        memcpy(i, below, L1 * 4);  // i is used no more: now d i, so far
        clear_above(dS, l);
        memset(dq, 0, l * K1 * 4), memset(dk, 0, l * K1 * 4), memset(dv, 0, l * V1 * 4);
    }

    // What q read of the state, or k wrote into it: d x = (d x + normaliser * by) * weight, and what the weight's
    // logarithm gets, d x . x. Without `by` it is 1.
    void settle(int64_t l, float* dx, const float* normaliser, const float* by, const float* weights, const float* x,
                float* d_weights) const {
        for (int64_t first = 0; first < l; first += W) {
            V part[W] = {};
            for (int64_t t = first; t < least(l, first + W); t++)
                for (int64_t j = 0; j < K1; j += W) {
                    const V d = (load(dx + t * K1 + j) + load(normaliser + j) * (by ? by[t] : 1.f)) * weights[t];
                    store(dx + t * K1 + j, d);
                    part[t - first] += d * load(x + t * K1 + j);
                }
            store(d_weights + first, sums(part));
        }
    }

    // What q read from the state the chunk began with, and what k and v wrote into the one it ended with.
    void across(int64_t l) {
        transpose(C, V1, s.K, V1, turned_C, K1);
        product(l, K1, s.V, dnum, turned_C, dq, {V1, 1, K1, W, K1});
        settle(l, dq, N1, dden, read, q, dread);
        transpose(dC, V1, s.K, V1, turned_C, K1);
        product(l, K1, s.V, v, turned_C, dk, {V1, 1, K1, W, K1});
        settle(l, dk, dn, nullptr, write, k, dwrite);
        product(l, V1, s.K, k_write, dC, dv, {K1, 1, V1, W, V1});
        blocks(l, [&](int64_t r0, int64_t r1) {
            if (s.d_h) fetch(s.d_h, s.dh_b, s.dh_t, s.dh_n, s.V, r0, r1);
            fetch(s.h, s.T * s.N * s.V, s.N * s.V, s.V, s.V, r0, r1);
            product(r1 - r0, K1, r1, dS + r0 * L1, k, dq + r0 * K1, {L1, 1, K1, W, K1});
            const int64_t from = r0 * L1 + r0, after = l - r0;
            product(r1 - r0, K1, after, dS + from, q + r0 * K1, dk + r0 * K1, {1, L1, K1, W, K1});
            product(r1 - r0, V1, after, S + from, dnum + r0 * V1, dv + r0 * V1, {1, L1, V1, W, V1});
        });
    }

    // d C and d n, one chunk back.
    void hand_back(int64_t l) {
        scale_by(dC, carry, s.K * V1), scale_by(dn, carry, K1);
        product(s.K, V1, l, q_read, dnum, dC, {1, K1, V1, W, V1});
        add_rows(dn, q_read, dden, l, K1);
    }

    void gates(int64_t t0, int64_t l, float d_carry) {
        float reading = 0, writing = 0;
        for (int64_t t = l - 1; t >= 0; t--) reading += dread[t], dread[t] = reading;
        for (int64_t t = 0; t < l; t++) {
            const int64_t at = (b * s.T + t0 + t) * s.N + n;
            s.d_i[at] = i[t] + dwrite[t];
            const float d_log_f = passing[t] + writing + dread[t] + d_carry;
            s.d_f[at] = slope[t] == 0 ? 0 : d_log_f * slope[t];
            writing += dwrite[t];
            float *to_q = s.d_q + at * s.K, *to_k = s.d_k + at * s.K, *to_v = s.d_v + at * s.V;
            for (int64_t j = 0; j < s.K; j += W) {
                store_some(to_q + j, load(dq + t * K1 + j) * scale, s.K - j);
                store_some(to_k + j, load(dk + t * K1 + j), s.K - j);
            }
            for (int64_t j = 0; j < s.V; j += W) store_some(to_v + j, load(dv + t * V1 + j), s.V - j);
        }
    }
};

inline void memory(int64_t backward, const Memory* s) {
    const int64_t tasks = s->B * s->N, room = to16(Chunk::room(*s, backward));
    const bool alone = s->T == 1 && !s->saved && !s->lengths && !backward;
    int64_t threads = least(s->threads, tasks);
    if (alone && tasks * s->K * s->V < 20000) threads = 1;  // waking others would take longer
    struct Given { const Memory* s; float* rooms; int64_t room, tasks, backward, alone, next; } given = {
        s, alone ? nullptr : align(workspace(threads * room + 16)), room, tasks, backward, alone, 0};
    run_parallel(
        [](void* data, int64_t thread, int64_t) {
            Given& g = *(Given*)data;
            Chunk chunk(*g.s, g.alone ? nullptr : g.rooms + thread * g.room, g.backward);
            for (;;) {
                const int64_t task = __atomic_fetch_add(&g.next, 1, __ATOMIC_RELAXED);
                if (task >= g.tasks) return;
                if (g.alone) chunk.step(task);
                else if (g.backward) chunk.backward(task);
                else chunk.forward(task);
            }
        },
        &given, threads);
}

}  // namespace VARIANT
