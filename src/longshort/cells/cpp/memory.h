// A sequence through an mLSTM, chunk by chunk: cells/mlstm.py's chunkwise form, with the same names.
//
// A thread takes some heads of one row through time, in turn a chunk of each: what they read lies side by side. A chunk's
// tiles stay in its cache; of what lies above the diagonal almost nothing is computed; and the backward computes a chunk
// anew from the state it began with.
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

// One head of one row: its chunk, in this thread's own room, and what the heads beside it carry on. Widths are whole
// vectors: K1, V1, L1.
struct Chunk {
    // Rows of numbers, one for each step, where the caller has them.
    struct Rows {
        const float* x;
        int64_t x_b, x_t, x_n, width;
    };
    const Memory& s;
    const Rows qs = {s.q, s.q_b, s.q_t, s.q_n, s.K}, ks = {s.k, s.k_b, s.k_t, s.k_n, s.K};
    const Rows vs = {s.v, s.v_b, s.v_t, s.v_n, s.V}, hs = {s.h, s.T * s.N * s.V, s.N * s.V, s.V, s.V};
    const Rows is = {s.i_pre, s.i_b, s.i_t, s.i_n, 1}, fs = {s.f_pre, s.f_b, s.f_t, s.f_n, 1};
    const Rows d_hs = {s.d_h, s.dh_b, s.dh_t, s.dh_n, s.V};
    const int64_t K1 = to16(s.K), V1 = to16(s.V), L1 = to16(s.L);
    const float scale = 1.f / __builtin_sqrtf((float)s.K);
    int64_t b, n, length;
    Range heads;
    // Of the chunk: v; `turned`, k turned over and at last times `write`, or in the backward v turned over; and what
    // they make. `weight` and `read` are over sqrt K; `over` is 1 / `bound`.
    float *v, *turned, *S, *weight, *C, *N1;
    float *log_f, *slope, *i, *decay, *m, *read, *write, *den, *over;
    float carry;
    float* carried;  // head after head: C and n; in the backward d C and d n
    // A reset begins a piece: of the chunk's steps, those from starts[x] to starts[x + 1]; `from` says for each step where
    // its piece begins. No piece sees another. `fresh`: the first does not see the state before either.
    int32_t *starts, *from;
    int64_t pieces;
    bool fresh;
    // Backward: q, k and the gradients. `along` has W sums a row.
    float *q, *k, *dS, *dnum, *dC, *dn, *turned_C, *along, *dden, *dread, *dwrite, *passing;

    static int64_t carried_size(const Memory& s) { return to16(s.K) * to16(s.V) + to16(s.K) + 16; }
    static int64_t room(const Memory& s, bool backward, int64_t together) {
        const int64_t K1 = to16(s.K), V1 = to16(s.V), L1 = to16(s.L), more = backward;
        return L1 * (V1 + most_of(K1, V1) + 2 * L1) + 15 * L1 + 16 + together * carried_size(s) +
               more * (L1 * (2 * K1 + V1 + L1 + W) + K1 * V1 + carried_size(s));
    }

    Chunk(const Memory& s, float* p, bool backward, int64_t together) : s(s) {
        auto take = [&](float*& x, int64_t size) { x = p, p += size; };
        take(v, L1 * V1), take(turned, most_of(K1, V1) * L1), take(S, L1 * L1), take(weight, L1 * L1);
        take(carried, together * carried_size(s));
        float** rows[] = {&log_f, &slope, &i, &decay, &m, &read, &write, &den, &over, &dden, &dread, &dwrite, &passing};
        for (float** row : rows) take(*row, L1);
        from = (int32_t*)p, starts = from + L1, p += 2 * L1 + 16;
        if (!backward) return;
        take(q, L1 * K1), take(k, L1 * K1), take(dS, L1 * L1), take(dnum, L1 * V1), take(along, L1 * W);
        take(turned_C, K1 * V1), take(C, K1 * V1), take(N1, K1 + 16);
    }

    const float* at(const Rows& rows, int64_t t) const { return rows.x + b * rows.x_b + t * rows.x_t + n * rows.x_n; }
    // h, or a gradient, with a row of it at x.
    bool past(const float* x, int64_t width) const { return goes_past(x, width, s.B * s.T * s.N * width); }
    float& carried_m() const { return N1[K1]; }  // it stands beside n
    int64_t row(int64_t t) const { return (b * s.T + t) * s.N + n; }  // of what is contiguous

    Range piece(int64_t x) const { return {starts[x], starts[x + 1]}; }
    // The steps that see the state before the chunk, and those that the state after it sees.
    bool reads(int64_t x) const { return x == 0 && !fresh; }  // a piece
    Range reading() const { return reads(0) ? piece(0) : Range{0, 0}; }
    Range written() const { return piece(pieces - 1); }
    bool carries() const { return reads(pieces - 1); }

    // Rows of `width` numbers into rows of whole vectors, the rest 0.
    static void copy(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t width) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < to_row; j += W)
                store(to + r * to_row + j, j < width ? load_some(from + r * from_row + j, width - j) : V{});
    }
    static void give(float* to, int64_t to_row, const float* from, int64_t from_row, int64_t rows, int64_t width) {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t j = 0; j < width; j += W)
                store_some(to + r * to_row + j, load(from + r * from_row + j), width - j);
    }

    // Row after row of what comes next is asked for while this chunk is being computed: the next head's, or what the first
    // head needs from step `after` on (-1: nothing comes).
    int64_t next, next_l;
    ptrdiff_t next_n;
    void coming(int64_t t0, int64_t after) {
        const bool last = n == heads.end - 1;
        next = last ? after : t0, next_n = last ? heads.begin : n + 1, next_l = least(s.L, length - next);
    }
    // Inlined, or gcc takes it for a function without effect and leaves it out.
    ALWAYS void fetch(const Rows* rows, int64_t r) const {
        if (next < 0 || r >= next_l || !rows || !rows->x) return;
        const float* from = at(*rows, next + r) + (next_n - n) * rows->x_n;
        for (int64_t j = 0; j < rows->width; j += 16) ask_for(from + j);
    }
    // A tile's product, rows from t on. If it `asks`, a row at a time of what comes: all at once, they wait for one another.
    template <int MR, int NV>
    ALWAYS void accumulate_asking(V (&sum)[MR][NV], int64_t depth, const float* a, int64_t a_row, const float* b,
                                  int64_t b_k, int64_t t, bool asks, const Rows* soon, const Rows* soon_too) const {
        if (asks)
            accumulate<MR>(sum, depth, a, a_row, 1, b, b_k, W,
                           [&](int row) INLINED { fetch(soon, t + row), fetch(soon_too, t + row); });
        else accumulate(sum, depth, a, a_row, 1, b, b_k, W);
    }

    // Steps t0 .. t0 + l of the inputs.
    void take_in(int64_t t0, int64_t l) {
        transpose(at(ks, t0), s.k_t, l, s.K, turned, L1);
        copy(v, V1, at(vs, t0), s.v_t, l, s.V);
        for (int64_t t = 0; t < L1; t++) {
            i[t] = t < l ? *at(is, t0 + t) : 0;
            log_f[t] = t < l ? *at(fs, t0 + t) : 0;
        }
        for (int64_t t = 0; t < L1; t += W) {
            const LogSigmoid gate = log_sigmoid(load(log_f + t));
            store(log_f + t, gate.value), store(slope + t, gate.slope);
        }
        fresh = t0 == 0 && !s.C0, pieces = 1, starts[0] = 0;
        for (int64_t t = 0; t < l; t++) {
            if (s.reset && s.reset[b * s.T + t0 + t]) {
                if (t) starts[pieces++] = (int32_t)t;
                else fresh = true;
                log_f[t] += NOTHING, slope[t] = 0;  // NaN stays
            }
            from[t] = starts[pieces - 1];
        }
        starts[pieces] = (int32_t)l;
    }

    // The stabiliser, and every weight. D[t][j] = log f_{j+1} + ... + log f_t + i_j is summed between its two steps.
    void weigh(int64_t l) {
        for (int64_t x = 0; x < pieces; x++) {
            float decayed = reads(x) ? 0 : NOTHING, start = reads(x) ? carried_m() : 0, peak = NOTHING;
            for (int64_t t = piece(x).begin; t < piece(x).end; t++) {
                decayed += log_f[t];
                decay[t] = decayed + start;
                peak = max1(peak + log_f[t], i[t]);  // the largest of D[t]: sums in the same order
                m[t] = max1(max1(decay[t], peak), 0);
            }
        }
        for (int64_t t = 0; t < l; t++) decay[t] -= m[t];
        for (int64_t t = l; t < L1; t++) decay[t] = 0;
        for (int64_t t = 0; t < L1; t += W) store(read + t, exp(load(decay + t)) * scale);
        carry = carries() ? exp1(decay[l - 1]) : 0;
        for (int64_t j = 0, x = 0; j < L1; j += W) {
            while (x + 1 < pieces && starts[x + 1] < j + W) x++;
            const int64_t end = starts[x + 1];  // no step after it sees these inputs
            V D = splat(NOTHING);               // of W inputs, step by step; at last what is written of them
            for (int64_t t = j; t < end; t++) {
                D += splat(log_f[t]);
                // The step's own has not decayed.
                if (t < j + W) D = lane_numbers() == (int32_t)(t - j) ? splat(i[t]) : D;
                store(weight + t * L1 + j, exp(D - splat(m[t])) * scale);
            }
            const VI there = lane_numbers() < (int32_t)(end < l ? 0 : l - j);
            store(write + j, there ? exp(D - splat(m[l - 1])) : V{});
        }
    }

    // Products of the steps of each piece, up to the diagonal, in whole vectors filled up with 0: (start + a x turned) *
    // times, with `turned` as it stands, `start` a number for each row or null, `times` numbers like theirs or null.
    void within(const float* a, int64_t a_row, int64_t depth, const float* start, const float* times, float* to,
                const Rows* soon, const Rows* soon_too) const {
        for (int64_t x = 0; x < pieces; x++) {
            const Range steps = piece(x);
            const int64_t first = steps.begin / W * W, blocks = ceil_div(steps.end - steps.begin, ROWS);
            for (int64_t y = 0; y < blocks; y++) {
                const Range some = part(steps.end - steps.begin, y, blocks);
                const int64_t t = steps.begin + some.begin, end = steps.begin + some.end;
                tiles(end - t, whole(end) - first, [&](auto height, auto beside, int64_t, int64_t column) {
                    V sum[height.value][beside.value];
                    UNROLL for (int r = 0; r < height.value; r++)
                        UNROLL for (int j = 0; j < beside.value; j++) sum[r][j] = start ? splat(start[t + r]) : V{};
                    accumulate_asking(sum, depth, a + t * a_row, a_row, turned + first + column, L1, t, !column, soon,
                                      soon_too);
                    UNROLL for (int r = 0; r < height.value; r++)
                        UNROLL for (int j = 0; j < beside.value; j++) {
                            const int64_t lanes = first + column + j * W, here = (t + r) * L1 + lanes;
                            V x = times ? sum[r][j] * load(times + here) : sum[r][j];
                            const VI at = lane_numbers() + (int32_t)lanes;
                            if (lanes + W > t + r) x = at > (int32_t)(t + r) ? V{} : x;
                            if (lanes < steps.begin) x = at < (int32_t)steps.begin ? V{} : x;
                            store(to + here, x);
                        }
                });
            }
        }
    }

    // Rows of h, or of a gradient: what went through a state, (a x state + given x normaliser) * weights, and what
    // stayed within the piece, inner x rows, all times `ends`. `inner` is S or dS: of it the steps up to the row's own, or,
    // if `later`, turned over, those from there on. The state is that before the chunk, or the one after it if `later`:
    // only some steps have to do with it. Where x is given, what went through it times x goes to `along`.
    struct Sums {
        const float* a;
        int64_t a_row, depth;
        const float *state, *weights, *inner, *rows;
        int64_t width;  // of state and rows
        float* to;
        int64_t to_width;
        const float *ends = nullptr, *normaliser = nullptr, *given = nullptr, *x = nullptr;
    };
    template <bool later>
    void add_up(const Sums& g, const Rows* soon = nullptr, const Rows* soon_too = nullptr) const {
        for (int64_t x = 0; x < pieces; x++)
            add_up<later>(g, piece(x), later ? x == pieces - 1 : reads(x), soon, soon_too);
    }
    template <bool later>
    void add_up(const Sums& g, Range steps, bool state, const Rows* soon, const Rows* soon_too) const {
        const bool to_past = past(g.to, g.to_width);
        tiles(steps.end - steps.begin, g.width, [&](auto height, auto beside, int64_t row, int64_t column) {
            const int64_t t = steps.begin + row;
            V sum[height.value][beside.value] = {};
            if (state) {
                accumulate_asking(sum, g.depth, g.a + t * g.a_row, g.a_row, g.state + column, g.width, t, !column, soon,
                                  soon_too);
                UNROLL for (int r = 0; r < height.value; r++) {
                    V part = column && g.x ? load(along + (t + r) * W) : V{};
                    UNROLL for (int j = 0; j < beside.value; j++) {
                        const int64_t here = column + j * W;
                        if (g.normaliser)
                            sum[r][j] += load(g.normaliser + here) * (g.given ? g.given[t + r] : 1.f);
                        sum[r][j] *= g.weights[t + r];
                        if (g.x) part += sum[r][j] * load(g.x + (t + r) * g.width + here);
                    }
                    if (g.x) store(along + (t + r) * W, part);
                }
            } else if (!column) {
                for (int r = 0; r < height.value; r++) {
                    fetch(soon, t + r), fetch(soon_too, t + r);
                    if (g.x) store(along + (t + r) * W, V{});
                }
            }
            const int64_t from = later ? t + height.value : steps.begin, count = later ? steps.end - from : t - from;
            const float* inner = later ? g.inner + from * L1 + t : g.inner + t * L1 + from;
            accumulate(sum, count, inner, later ? 1 : L1, later ? L1 : 1, g.rows + from * g.width + column, g.width, W);
            UNROLL for (int k = 0; k < height.value; k++)  // between the block's own steps: up to the diagonal
                UNROLL for (int j = 0; j < beside.value; j++) {
                    const V row = load(g.rows + (t + k) * g.width + column + j * W);
                    UNROLL for (int r = later ? 0 : k; r < (later ? k + 1 : height.value); r++)
                        sum[r][j] += row * g.inner[later ? (t + k) * L1 + t + r : (t + r) * L1 + t + k];
                }
            UNROLL for (int r = 0; r < height.value; r++)
                UNROLL for (int j = 0; j < beside.value; j++) {
                    const int64_t here = column + j * W;
                    const V x = g.ends ? sum[r][j] * g.ends[t + r] : sum[r][j];
                    float* to = g.to + (t + r) * s.N * g.to_width + here;
                    if (to_past) store_past(to, x);
                    else if (here < g.to_width) store_some(to, x, g.to_width - here);
                }
        });
    }

    // state = carry state + a^T rows of some steps, for C or its gradient.
    void renew(float* state, Range steps, const float* a, int64_t a_row, int64_t a_k, const float* rows) const {
        a += steps.begin * a_k, rows += steps.begin * V1;
        const bool keeps = carries();
        tiles(s.K, V1, [&](auto height, auto beside, int64_t row, int64_t column) {
            V sum[height.value][beside.value];
            float* x = state + row * V1 + column;
            UNROLL for (int r = 0; r < height.value; r++)
                UNROLL for (int j = 0; j < beside.value; j++) sum[r][j] = keeps ? load(x + r * V1 + j * W) * carry : V{};
            accumulate(sum, steps.end - steps.begin, a + row * a_row, a_row, a_k, rows + column, V1, W);
            UNROLL for (int r = 0; r < height.value; r++)
                UNROLL for (int j = 0; j < beside.value; j++) store(x + r * V1 + j * W, sum[r][j]);
        });
    }

    // S and den: what every step sees of every input, and the sum of it; and one over what h's sum is divided by.
    void scores(int64_t t0, int64_t l) {
        const float* q = at(qs, t0);
        for (int64_t t = 0; t < s.L; t++) fetch(&is, t), fetch(&fs, t);
        for (int64_t t = 0; t < (past(s.h, s.V) ? 0 : l); t++)  // where h goes: soon to be written, or read
            for (int64_t j = 0; j < s.V; j += 16) ask_for(at(hs, t0 + t) + j);
        within(q, s.q_t, s.K, nullptr, weight, S, &qs, nullptr);
        for (int64_t first = 0; first < l; first += W) {
            V part[W] = {};
            for (int64_t t = first; t < least(l, first + W); t++) {
                V sum = {};
                if (t < reading().end) {
                    for (int64_t j = 0; j < s.K; j += W) sum += load_some(q + t * s.q_t + j, s.K - j) * load(N1 + j);
                    sum *= read[t];
                }
                for (int64_t j = from[t] / W * W; j <= t; j += W) sum += load(S + t * L1 + j);
                part[t - first] = sum;
            }
            store(den + first, sums(part));
        }
        for (int64_t t = l; t < L1; t++) m[t] = 0;
        for (int64_t t = 0; t < L1; t += W) {
            const V d = vabs(load(den + t));
            store(over + t, 1.f / (vmax(d, floor_of(load(m + t))) + s.eps));
        }
    }

    void read_out(int64_t t0) const {
        Sums h = {at(qs, t0), s.q_t, s.K, C, read, S, v, V1, s.h + row(t0) * s.V, s.V};
        h.ends = over;
        add_up<false>(h, &ks, &vs);
    }

    static void scale_by(float* x, float factor, int64_t size) {
        for (int64_t j = 0; j < size; j += W) store(x + j, load(x + j) * factor);
    }
    // y += sum over some steps t of weights[t] * rows[t].
    static void add_rows(float* y, const float* rows, const float* weights, Range steps, int64_t width) {
        for (int64_t j = 0; j < width; j += 4 * W) {
            const int count = (int)least(4, (width - j) / W);
            V sum[4] = {};
            for (int64_t t = steps.begin; t < steps.end; t++)
                for (int x = 0; x < count; x++) sum[x] += load(rows + t * width + j + x * W) * weights[t];
            for (int x = 0; x < count; x++) store(y + j + x * W, load(y + j + x * W) + sum[x]);
        }
    }

    void write_in(int64_t l) {
        const Range steps = written();
        for (int64_t first = 0; first < s.K; first += W) {
            V part[W] = {};
            for (int64_t j = 0; j < W; j++) {
                float* row = turned + (first + j) * L1;
                for (int64_t t = steps.begin / W * W; t < l; t += W) {
                    V x = load(row + t) * load(write + t);
                    if (t < steps.begin) x = lane_numbers() < (int32_t)(steps.begin - t) ? V{} : x;
                    store(row + t, x);
                    part[j] += x;
                }
            }
            store(N1 + first, (carries() ? load(N1 + first) * carry : V{}) + sums(part));
        }
        renew(C, steps, turned, L1, 1, v);
        carried_m() = m[l - 1];
    }

    int64_t saved_size() const { return s.K * V1 + K1 + 16; }
    float* saved(int64_t chunk) const {
        return s.saved + ((b * s.N + n) * ceil_div(s.T, s.L) + chunk) * saved_size();
    }
    void save(float* to) const {
        if (goes_past(s.saved, 16, s.B * s.N * ceil_div(s.T, s.L) * saved_size()))
            for (int64_t j = 0; j < s.K * V1; j += W) store_past(to + j, load(C + j));
        else memcpy(to, C, s.K * V1 * 4);
        memcpy(to + s.K * V1, N1, (K1 + 1) * 4);
    }
    void restore(const float* from) {
        memcpy(C, from, s.K * V1 * 4), memcpy(N1, from + s.K * V1, (K1 + 1) * 4);
    }

    // Some heads of row b begin with what they carry all 0: between the rows' ends and whole vectors it stays so.
    void begin(int64_t row_of_batch, Range some) {
        b = row_of_batch, heads = some, length = s.lengths ? s.lengths[b] : s.T;
        memset(carried, 0, (heads.end - heads.begin) * carried_size(s) * 4);
    }
    // It is head n's turn.
    void turn_to(int64_t head, float*& matrix, float*& vector) {
        n = head, matrix = carried + (n - heads.begin) * carried_size(s), vector = matrix + K1 * V1;
    }
    int64_t head() const { return b * s.N + n; }

    void forward(int64_t row_of_batch, Range some) {
        begin(row_of_batch, some);
        for (int64_t x = heads.begin; x < heads.end && s.C0; x++) {
            turn_to(x, C, N1);
            copy(C, V1, s.C0 + head() * s.K * s.V, s.V, s.K, s.V), copy(N1, K1, s.n0 + head() * s.K, s.K, 1, s.K);
            carried_m() = s.m0[head()];
        }
        for (int64_t t0 = 0; t0 < length; t0 += s.L)
            for (int64_t x = heads.begin; x < heads.end; x++) {
                const int64_t l = least(s.L, length - t0);
                turn_to(x, C, N1);
                if (s.saved) save(saved(t0 / s.L));
                coming(t0, t0 + s.L < length ? t0 + s.L : -1);
                take_in(t0, l), weigh(l), scores(t0, l);
                read_out(t0);
                write_in(l);
            }
        for (int64_t x = heads.begin; x < heads.end; x++) {
            turn_to(x, C, N1);
            for (int64_t t = length; t < s.T; t++) memset(s.h + row(t) * s.V, 0, s.V * 4);
            give(s.C + head() * s.K * s.V, s.V, C, V1, s.K, s.V), give(s.n + head() * s.K, s.K, N1, K1, 1, s.K);
            s.m[head()] = carried_m();
        }
    }

    // Some columns of C: C = f C + i k v^T, and of h = part C^T q.
    static constexpr int COLUMNS = ROWS == 6 ? 16 : 8;  // vectors, whose sums registers hold
    template <int vectors>
    ALWAYS void step_columns(int64_t task, int64_t j, int64_t lanes, float f, float i, float part, const float* k,
                             const float* v, const float* q) const {
        const float* from = s.C0 + task * s.K * s.V + j;
        float* to = s.C + task * s.K * s.V + j;
        V num[vectors] = {}, value[vectors];
        UNROLL for (int x = 0; x < vectors; x++) value[x] = load_some(v + j + x * W, lanes);
        for (int64_t r = 0; r < s.K; r++, from += s.V, to += s.V) {
            const V written = splat(i * k[r]), by = splat(q[r]);
            UNROLL for (int x = 0; x < vectors; x++) {
                const V now = load_some(from + x * W, lanes) * f + value[x] * written;
                store_some(to + x * W, now, lanes);
                num[x] += now * by;
            }
        }
        UNROLL for (int x = 0; x < vectors; x++) store_some(s.h + task * s.V + j + x * W, num[x] * part, lanes);
    }

    // One step alone, without a reset: C is read and written once, line after line.
    void step(int64_t task) {
        b = task / s.N, n = task % s.N;
        const float* n0 = s.n0 + task * s.K;
        const float *q = s.q + b * s.q_b + n * s.q_n, *k = s.k + b * s.k_b + n * s.k_n;
        const float* v = s.v + b * s.v_b + n * s.v_n;
        const float i_pre = s.i_pre[b * s.i_b + n * s.i_n];
        const float log_f = log_sigmoid(splat(s.f_pre[b * s.f_b + n * s.f_n])).value[0];
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
        const int64_t full = s.V / W;
        for (int64_t x = 0; x < full; x += COLUMNS)
            with_known<COLUMNS>(least(COLUMNS, full - x), [&](auto vectors) {
                step_columns<vectors.value>(task, x * W, W, f, i, part, k, v, q);
            });
        if (s.V > full * W) step_columns<1>(task, full * W, s.V - full * W, f, i, part, k, v, q);
        s.m[task] = m;
    }

    // ---- backward: letters as in cells/mlstm.py::chunkwise_backward --------------------------------------------------

    void backward(int64_t row_of_batch, Range some) {
        begin(row_of_batch, some);
        memset(C, 0, K1 * V1 * 4), memset(N1, 0, K1 * 4);
        for (int64_t x = heads.begin; x < heads.end; x++) {
            turn_to(x, dC, dn);
            if (s.d_C) copy(dC, V1, s.d_C + head() * s.K * s.V, s.V, s.K, s.V);
            if (s.d_n) copy(dn, K1, s.d_n + head() * s.K, s.K, 1, s.K);
        }
        for (int64_t c = ceil_div(length, s.L) - 1; c >= 0; c--)
            for (int64_t x = heads.begin; x < heads.end; x++) {
                const int64_t t0 = c * s.L, l = least(s.L, length - t0);
                turn_to(x, dC, dn);
                restore(saved(c));
                coming(t0, c ? t0 - s.L : -1);
                take_in(t0, l), weigh(l), scores(t0, l);
                copy(q, K1, at(qs, t0), s.q_t, l, s.K), copy(k, K1, at(ks, t0), s.k_t, l, s.K);
                from_h(t0, l), inside(l), across(t0, l);
                const float d_carry = carries() ? carry * (dot(dC, C, s.K * V1) + dot(dn, N1, K1)) : 0;
                if (c || s.d_C0) hand_back();
                gates(t0, l, d_carry);
            }
        for (int64_t x = heads.begin; x < heads.end; x++) {
            turn_to(x, dC, dn);
            for (int64_t t = length; t < s.T; t++) {
                const int64_t at = row(t);
                memset(s.d_q + at * s.K, 0, s.K * 4), memset(s.d_k + at * s.K, 0, s.K * 4);
                memset(s.d_v + at * s.V, 0, s.V * 4);
                s.d_i[at] = s.d_f[at] = 0;
            }
            if (!s.d_C0) continue;
            give(s.d_C0 + head() * s.K * s.V, s.V, dC, V1, s.K, s.V), give(s.d_n0 + head() * s.K, s.K, dn, K1, 1, s.K);
        }
    }

    // d num and d den: h = num / bound, divided by the bound twice, never by its square.
    void from_h(int64_t t0, int64_t l) {
        if (!s.d_h) memset(dnum, 0, l * V1 * 4);
        for (int64_t first = 0; first < l; first += W) {
            V part[W] = {};
            for (int64_t t = first; s.d_h && t < least(l, first + W); t++) {
                const float *d_h = at(d_hs, t0 + t), *h = at(hs, t0 + t);
                for (int64_t j = 0; j < V1; j += W) {
                    const V d = j < s.V ? load_some(d_h + j, s.V - j) * over[t] : V{};
                    store(dnum + t * V1 + j, d);
                    if (j < s.V) part[t - first] += d * load_some(h + j, s.V - j);
                }
            }
            const V product = sums(part), d = load(den + first), floor = floor_of(load(m + first));
            store(dden + first, vabs(d) > floor ? (d > V{} ? -product : product) : V{});
        }
    }

    // d S, at last times the weights.
    void inside(int64_t l) {
        transpose(v, V1, l, V1, turned, L1);
        within(dnum, V1, s.V, dden, nullptr, dS, &ks, &vs);
        // d D = d S * S. `below` sums it over the steps from t on: what passes step t lies left of it.
        float* below = turned;
        memset(below, 0, L1 * 4);
        for (int64_t t1 = l; t1 > 0;) {
            const int64_t t0 = (t1 - 1) / W * W;
            V part[W] = {};
            for (int64_t t = t1 - 1; t >= t0; t--) {
                for (int64_t j = from[t] / W * W; j <= t; j += W) {
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
    }

    // d q or d k, and what the logarithm of each row's weight gets: the part that went through the state times x, which
    // is q or k itself.
    template <bool later>
    void settle(int64_t l, Sums g, const float* state, const float* normaliser, const float* given, const float* x,
                float* d_weights) const {
        transpose(state, V1, s.K, V1, turned_C, K1);
        g.state = turned_C, g.normaliser = normaliser, g.given = given, g.x = x;
        add_up<later>(g);
        for (int64_t first = 0; first < l; first += W) {
            V part[W] = {};
            for (int64_t t = first; t < least(l, first + W); t++) part[t - first] = load(along + t * W);
            store(d_weights + first, sums(part));
        }
    }

    void across(int64_t t0, int64_t l) const {
        float *to_q = s.d_q + row(t0) * s.K, *to_k = s.d_k + row(t0) * s.K, *to_v = s.d_v + row(t0) * s.V;
        settle<false>(l, {dnum, V1, s.V, nullptr, read, dS, k, K1, to_q, s.K}, C, N1, dden, q, dread);
        settle<true>(l, {v, V1, s.V, nullptr, write, dS, q, K1, to_k, s.K}, dC, dn, nullptr, k, dwrite);
        add_up<true>({k, K1, s.K, dC, write, S, dnum, V1, to_v, s.V}, &d_hs, &hs);
    }

    // d C and d n, one chunk back.
    void hand_back() {
        const Range steps = reading();
        for (int64_t t = steps.begin; t < steps.end; t++) dden[t] *= read[t], scale_by(dnum + t * V1, read[t], V1);
        renew(dC, steps, q, 1, K1, dnum);
        if (carries()) scale_by(dn, carry, K1);
        else memset(dn, 0, K1 * 4);
        add_rows(dn, q, dden, steps, K1);
    }

    void gates(int64_t t0, int64_t l, float d_carry) {
        float reading = 0, writing = 0;
        for (int64_t t = l - 1; t >= 0; t--) reading += dread[t], dread[t] = reading;
        for (int64_t t = 0; t < l; t++) {
            const int64_t at = row(t0 + t);
            s.d_i[at] = i[t] + dwrite[t];
            const float d_log_f = passing[t] + writing + dread[t] + d_carry;
            s.d_f[at] = slope[t] == 0 ? 0 : d_log_f * slope[t];
            writing += dwrite[t];
        }
    }
};

// How many heads of a row a thread takes through time together: as many as keep the threads as evenly at work as one at a
// time would, while what they carry fits into a large second cache (more was slower on a Xeon with 2 MiB of it). Rows
// that end early may leave few threads at work: then only if there are many.
inline int64_t heads_together(const Memory& s) {
    constexpr int64_t NEAR = 5 << 17;  // bytes
    if (s.lengths && s.B < 4 * s.threads) return 1;
    const int64_t fewest = ceil_div(s.B * s.N, s.threads);  // heads, one after the other, of the busiest thread
    int64_t best = 1;
    for (int64_t some = 2; some <= s.N && some * Chunk::carried_size(s) * 4 <= NEAR; some++)
        if (ceil_div(s.B * ceil_div(s.N, some), s.threads) * some <= fewest) best = some;
    return best;
}

inline void memory(int64_t backward, const Memory* s) {
    const bool alone = s->T == 1 && s->C0 && !s->saved && !s->lengths && !s->reset && !backward;
    const int64_t together = alone ? 1 : heads_together(*s), groups = ceil_div(s->N, together), tasks = s->B * groups;
    const int64_t room = to16(Chunk::room(*s, backward, together));
    // Step after step a thread has the same tasks: taken there and back again, what a cache holds of the last step's C
    // comes first, if no other layer's came in between.
    static thread_local bool back = false;
    back = !back;
    int64_t threads = least(s->threads, tasks);
    if (alone && tasks * s->K * s->V < 20000) threads = 1;  // waking others would take longer
    struct Given {
        const Memory* s;
        float* rooms;
        int64_t room, together, groups, tasks, backward, alone;
        bool back;
        int64_t next;
    } given = {s, alone ? nullptr : align(workspace(threads * room + 16)), room, together, groups, tasks, backward, alone,
               back, 0};
    run_parallel(
        [](void* data, int64_t thread, int64_t threads) {
            Given& g = *(Given*)data;
            Chunk chunk(*g.s, g.alone ? nullptr : g.rooms + thread * g.room, g.backward, g.together);
            const Range mine = part(g.alone ? g.tasks : 0, thread, threads);
            for (int64_t task = mine.begin; task < mine.end; task++)
                chunk.step(g.back ? mine.begin + mine.end - 1 - task : task);
            while (!g.alone) {
                const int64_t task = __atomic_fetch_add(&g.next, 1, __ATOMIC_RELAXED);
                if (task >= g.tasks) break;
                const Range heads = part(g.s->N, task % g.groups, g.groups);
                if (g.backward) chunk.backward(task / g.groups, heads);
                else chunk.forward(task / g.groups, heads);
            }
            fence();  // what went past the caches is there
        },
        &given, threads);
}

}  // namespace VARIANT
