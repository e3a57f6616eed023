// A sequence through a recurrent cell: the loop over time, with R h as register tiles and the gates in registers.
//
// Rows of the batch and heads never see one another, so each thread takes some of them through all of time without
// waiting. Where there are too few, or R is too large for one thread's cache, a team of threads splits the units and
// meets at every step. Rows end in the order of their lengths; those that have ended cost nothing.
#pragma once
#include "shared.h"
#include "tile.h"
#include "units.h"

namespace VARIANT {

constexpr int64_t FEW = 48;  // sums of more keep the processor busy while it waits for gates
constexpr int64_t LINES = 256, TALL = 16 * ROWS;  // of a sum over rows and steps, at a time
constexpr int64_t RECENT = LINES / 2;             // lines of one that goes along with the steps
constexpr int64_t NEAR = 1 << 18, ROOM = 1 << 25;  // floats: a sum that its core's cache holds; all of them and their lines

// Who does what: `teams` of `team` threads; the batch is dealt out to `groups`. An item is a head of a group.
struct Plan {
    int64_t team, teams, groups, items;
    bool together;  // all items of a team step by step, not one after the other
};

// What of R a thread reads of one item's step, in bytes, and of all its items'.
struct Reads { double item, all; };
inline Reads reads(const Recurrence& s, int64_t G, int64_t team, int64_t teams, int64_t groups) {
    const double item = 4.0 * G * s.H * ceil_div(ceil_div(s.H, W), team) * W;
    return {item, item * ceil_div(s.N * groups, teams)};
}

// Roughly how many cycles a step takes with this plan: sums, the gates' functions, R from the cache, and waiting. The
// numbers were fitted to what plans took, forward and forward+backward, on a Xeon (Sapphire Rapids) and an EPYC (Zen 3):
// a core's own cache of 0.6 MB and more gives 48 bytes a cycle, what lies beyond 16, and from 1.5 MB on somewhat less;
// a tile's gates take 60 cycles; and to meet takes 1000 and a twentieth of the work, for the slowest is waited for.
inline double cycles(const Recurrence& s, int64_t G, int64_t team, int64_t teams, int64_t groups) {
    const int64_t rows = ceil_div(s.B, groups), tiles = ceil_div(ceil_div(s.H, W), team);
    const double blocks = (double)ceil_div(rows, ROWS), sums = G * (double)s.H * tiles;
    const auto [bytes, all] = reads(s, G, team, teams, groups);
    const double read = bytes / (all > 6e5 ? 16 : 48);
    double each = read > sums * rows / 2 ? read : sums * rows / 2;
    each += sums * blocks / 2 + 60.0 * tiles * rows + (all > 1.5e6 ? read / 8 : 0);
    each *= ceil_div(s.N * groups, teams);
    if (team > 1) each += 1000 + (each / 20 < 4000 ? each / 20 : 4000);
    return each;
}

inline Plan plan_of(const Recurrence& s, int64_t G, int64_t threads) {
    Plan best = {1, 1, 1, s.N, true};
    double least_cycles = 0;
    for (int64_t team = 1; team <= threads; team++) {
        if (threads % team || team > ceil_div(s.H, W)) continue;
        const int64_t teams = threads / team;
        for (int64_t groups = 1; groups <= least(s.B, teams); groups++) {
            const double now = cycles(s, G, team, teams, groups);
            if (least_cycles && now >= least_cycles) continue;
            least_cycles = now;
            best = {team, teams, groups, s.N * groups, reads(s, G, team, teams, groups).all < 5e5};
        }
    }
    return best;
}

// What one call lays out in the workspace.
template <class Cell> struct Layout {
    static constexpr int NV = Cell::G * Cell::BESIDE;  // vectors of a block: gates of tiles beside one another
    const Recurrence& s;
    Plan plan = {};
    int64_t rows = 0, tiles = 0, blocks = 0, width = 0;  // rows of a group; tiles and blocks of units; whole(H)
    int64_t outputs = 0, deep = 0;                       // tiles of h; whole(P)
    float *packed = nullptr, *items = nullptr;
    float* projection = nullptr;  // packed, as R is; null without one
    int64_t* order = nullptr;  // rows of the batch, the longest first
    Barrier* barriers = nullptr;
    int64_t item_size = 0;
    bool small = false;  // a step's inputs are few
    bool past = false;   // what a step leaves behind goes past the caches: whole lines, and too many to stay there
    bool as_it_goes = false;  // d R is summed up as the steps go by; if not, in the end, of what they left in memory
    float* sums = nullptr;    // then: d R of all groups but the first
    float* d_recurrent = nullptr;  // if not, of a GRU: d (R_n h + bias) (B, T, N, H)
    float *unprojected = nullptr, *d_projected = nullptr;  // in a projecting LSTM's: (B, T, N, H), and d h (B, T, N, P)

    // From d pre to d pre: an odd number of cache lines, or they would thrust one another out of the first cache.
    int64_t pitch() const { return to16(Cell::G * width) | 16; }

    int64_t length(int64_t b) const { return s.lengths ? s.lengths[b] : s.T; }
    int64_t row_of(int64_t group, int64_t i) const { return order[group + i * plan.groups]; }
    int64_t rows_of(int64_t group) const { return ceil_div(s.B - group, plan.groups); }
    // How many of a group's rows have a step t: they are its first.
    int64_t going_on(int64_t group, int64_t rows, int64_t t) const {
        if (s.lengths)
            while (rows && length(row_of(group, rows - 1)) <= t) rows--;
        return rows;
    }
    // What a team lays out, each piece once: f(head, i) for i in `range`, of which all groups of a head take their part.
    // What nobody else reads then lies in the cache of the thread that will.
    template <class F> void shared(int64_t team, Range range, F f) const {
        for (int64_t item = team; item < plan.items; item += plan.teams) {
            const Range mine = part(range.end - range.begin, item % plan.groups, plan.groups);
            for (int64_t i = mine.begin; i < mine.end; i++) f(item / plan.groups, range.begin + i);
        }
    }
    bool resets(int64_t b, int64_t t) const { return s.reset && s.reset[b * s.T + t]; }
    const float* x_pre(int64_t b, int64_t t, int64_t n) const { return s.x_pre + b * s.x_b + t * s.x_t + n * s.x_n; }
    int64_t at(int64_t b, int64_t t, int64_t n) const { return ((b * s.T + t) * s.N + n) * s.P; }
    int64_t unit_at(int64_t b, int64_t t, int64_t n) const { return ((b * s.T + t) * s.N + n) * s.H; }
    float* kept(int64_t b, int64_t t, int64_t n) const {
        return s.saved + ((n * s.T + t) * s.B + b) * Cell::KEEPS * to16(s.H);
    }
    // For what is kept, and for d x_pre.
    ALWAYS static void leave(float* to, V x, int64_t lanes, bool past) {
        if (past) store_past(to, x);
        else store_some(to, x, lanes);
    }
};

inline void sort_by_length(const Recurrence& s, int64_t* order) {
    for (int64_t b = 0; b < s.B; b++) order[b] = b;
    if (!s.lengths) return;
    for (int64_t gap = s.B / 2; gap; gap /= 2)  // Shell's sort; ties by row, so that the order is one order
        for (int64_t i = gap; i < s.B; i++)
            for (int64_t j = i; j >= gap; j -= gap) {
                const int64_t a = order[j - gap], b = order[j];
                if (s.lengths[a] > s.lengths[b] || (s.lengths[a] == s.lengths[b] && a < b)) break;
                order[j] = a, order[j - gap] = b;
            }
}

// ---- forward ---------------------------------------------------------------------------------------------------------

template <class Cell> struct Forward : Layout<Cell> {
    using Base = Layout<Cell>;
    using Base::s, Base::plan, Base::width, Base::deep, Base::projection;
    static constexpr int NV = Base::NV;

    // One item's own numbers: h twice (before and after a step), the other states, and what is yet to be projected.
    struct Item {
        int64_t n, group, rows;
        float *h[2], *state[3], *u;
    };
    int64_t size_of(int64_t rows) const { return rows * (2 * deep + (Cell::STATES + 1) * width); }

    Item item(int64_t i) const {
        Item it;
        it.n = i / plan.groups, it.group = i % plan.groups, it.rows = this->rows_of(it.group);
        float* p = this->items + i * this->item_size;
        const int64_t each = this->rows * width, of_h = this->rows * deep;
        for (int k = 0; k < 2; k++) it.h[k] = p + k * of_h;
        for (int k = 0; k < Cell::STATES; k++) it.state[k] = p + 2 * of_h + k * each;
        it.u = p + 2 * of_h + Cell::STATES * each;
        return it;
    }

    // R, transposed: for each block of units, its k one after the other, each with NV vectors.
    void pack(int64_t n, int64_t block) const {
        float* to = this->packed + (n * this->blocks + block) * s.P * NV * W;
        for (int v = 0; v < NV; v++) {
            const int64_t g = v % Cell::G, j = (block * Cell::BESIDE + v / Cell::G) * W;
            to_panel(s.R + ((g * s.N + n) * s.H + j) * s.P, s.P, s.H - j, s.P, to + v * W, NV * W);
        }
    }

    void begin(const Item& it, Range units, Range outputs) const {
        for (int64_t i = 0; i < it.rows; i++) {
            const int64_t b = this->row_of(it.group, i), from = (b * s.N + it.n) * s.H;
            const bool empty = !s.start[0] || (this->length(b) && this->resets(b, 0));
            for (int64_t p = outputs.begin; p < outputs.end; p++) {
                const bool there = p < s.P && !empty;
                it.h[0][i * deep + p] = there ? s.start[0][(b * s.N + it.n) * s.P + p] : 0;
                it.h[1][i * deep + p] = 0;
            }
            for (int64_t j = units.begin; j < units.end; j++) {
                const bool there = j < s.H && !empty;
                const int64_t to = i * width + j;
                for (int k = 0; k < Cell::STATES; k++) it.state[k][to] = there ? s.start[1 + k][from + j] : 0;
                // A carried state that holds nothing (n = 0) counts as empty, element by element.
                if (Cell::STATES == 3 && it.state[1][to] == 0) it.state[2][to] = NOTHING;
            }
        }
    }

    // The last states, and zeros for h past the end.
    void end(const Item& it, Range units, Range outputs) const {
        const int64_t n = least(units.end, s.H) - units.begin, p = least(outputs.end, s.P) - outputs.begin;
        for (int64_t i = 0; i < it.rows; i++) {
            const int64_t b = this->row_of(it.group, i), head = b * s.N + it.n, length = this->length(b);
            if (p > 0) {
                memcpy(s.last[0] + head * s.P + outputs.begin, it.h[length & 1] + i * deep + outputs.begin, p * 4);
                for (int64_t t = length; t < s.T; t++) memset(s.h + this->at(b, t, it.n) + outputs.begin, 0, p * 4);
            }
            if (n > 0)
                for (int k = 0; k < Cell::STATES; k++)
                    memcpy(s.last[1 + k] + head * s.H + units.begin, it.state[k] + i * width + units.begin, n * 4);
        }
    }

    template <int MR> void block(const Item& it, int64_t t, int64_t i0, int64_t block) const {
        V sum[MR][NV], apart[MR];
        int64_t row[MR];
        for (int r = 0; r < MR; r++) row[r] = this->row_of(it.group, i0 + r);
        add_up(it, t, i0, block, row, sum, apart);
        for (int r = 0; r < MR; r++) units(it, t, i0 + r, block, row[r], sum[r], apart[r]);
    }
    // A row alone, two blocks: the gates are long chains, of which two take hardly longer than one.
    void two_blocks(const Item& it, int64_t t, int64_t block) const {
        V sum[2][1][NV], apart[2];
        const int64_t row = this->row_of(it.group, 0);
        add_up(it, t, 0, block, &row, sum[0], apart), add_up(it, t, 0, block + 1, &row, sum[1], apart + 1);
        for (int x = 0; x < 2; x++) units(it, t, 0, block + x, row, sum[x][0], apart[x]);
    }
    ALWAYS void units(const Item& it, int64_t t, int64_t i, int64_t block, int64_t row, const V* sum, V apart) const {
        for (int tile = 0; tile < Cell::BESIDE; tile++) {
            const int64_t j = (block * Cell::BESIDE + tile) * W;
            if (j < s.H) unit(it, t, i, row, j, sum + tile * Cell::G, apart);
        }
    }

    // W x + R h of a block.
    template <int MR>
    ALWAYS void add_up(const Item& it, int64_t t, int64_t i0, int64_t block, const int64_t* row, V (&sum)[MR][NV],
                       V* apart) const {
        const int64_t j0 = block * Cell::BESIDE * W;
        for (int r = 0; r < MR; r++) {
            const float* x = this->x_pre(row[r], t, it.n);
            apart[r] = V{};
            for (int v = 0; v < NV; v++) {
                const int64_t j = j0 + v / Cell::G * W;
                const V from_x = j < s.H ? load_some(x + v % Cell::G * s.x_g + j, s.H - j) : V{};
                sum[r][v] = from_x;
                if (Cell::APART && v == NV - 1) {
                    apart[r] = from_x;
                    sum[r][v] = s.more ? load_some(s.more + it.n * s.H + j, s.H - j) : V{};
                }
            }
        }
        // What comes next: the same rows' next step, where a step's inputs stay in the cache, or else the next rows.
        const int64_t from = this->small ? i0 : i0 + MR, when = this->small ? t + 1 : t;
        const int64_t coming = when < s.T ? it.rows - from : 0;
        const float* h = it.h[t & 1] + i0 * deep;
        if (this->packed) {
            const float* R = this->packed + (it.n * this->blocks + block) * s.P * NV * W;
            // A row's at a time: all at once, they would wait for one another.
            accumulate<MR>(sum, s.P, h, deep, 1, R, NV * W, W, [&](int r) INLINED {
                if (!projection) __builtin_prefetch(s.h + this->at(row[r], t, it.n) + j0, 1);
                if (r >= coming) return;
                const float* x = this->x_pre(this->row_of(it.group, from + r), when, it.n) + j0;
                for (int v = 0; v < NV; v++) __builtin_prefetch(x + v % Cell::G * s.x_g + v / Cell::G * W);
            });
        } else {
            for (int v = 0; v < NV; v++) {
                const int64_t j = j0 + v / Cell::G * W;
                if (j >= s.H) continue;
                V apiece[MR];
                dots(s.R + ((v % Cell::G * s.N + it.n) * s.H + j) * s.P, s.P, s.H - j, s.P, h, deep, apiece);
                for (int r = 0; r < MR; r++) sum[r][v] += apiece[r];
            }
        }
    }

    // The gates of one row's W units, and where everything goes.
    void unit(const Item& it, int64_t t, int64_t i, int64_t b, int64_t j, const V* pre, V apart) const {
        const int64_t here = i * width + j, lanes = s.H - j;
        V state[Cell::STATES + 1], keep[Cell::KEEPS + 1];
        for (int k = 0; k < Cell::STATES; k++) state[k] = load(it.state[k] + here);
        const int64_t h_here = i * deep + j;  // P is H, but where h is projected
        V h = Cell::step(pre, apart, Cell::APART ? load(it.h[t & 1] + h_here) : V{}, state, s.saved ? keep : nullptr);
        if (s.saved) {
            float* to = this->kept(b, t, it.n) + j * Cell::KEEPS;
            for (int k = 0; k < Cell::KEEPS; k++) this->leave(to + k * W, keep[k], W, this->past);
        }
        const bool cut = empties(b, t);
        if (cut)
            for (int k = 0; k < Cell::STATES; k++) state[k] = k == 2 ? splat(NOTHING) : V{};
        if (projection) {
            store(it.u + here, h);
        } else {
            store_some(s.h + this->at(b, t, it.n) + j, h, lanes);
            store(it.h[(t + 1) & 1] + h_here, cut ? V{} : h);
        }
        for (int k = 0; k < Cell::STATES; k++) store(it.state[k] + here, state[k]);
    }

    // Whether a row's state is emptied after step t, before the next.
    bool empties(int64_t b, int64_t t) const { return s.reset && t + 1 < this->length(b) && this->resets(b, t + 1); }

    // h = projection u, for all units are there now.
    void project(const Item& it, int64_t t, Range outputs) const {
        const int64_t rows = this->going_on(it.group, it.rows, t), size = outputs.end - outputs.begin;
        if (size <= 0) return;
        float* h = it.h[(t + 1) & 1] + outputs.begin;
        product(rows, size, s.H, it.u, projection + (it.n * this->outputs * W + outputs.begin) * s.H, {}, h,
                {width, 1, W, s.H * W, deep});
        for (int64_t i = 0; i < rows; i++) {
            const int64_t b = this->row_of(it.group, i), p = least(outputs.end, s.P) - outputs.begin;
            memcpy(s.h + this->at(b, t, it.n) + outputs.begin, h + i * deep, p * 4);
            if (empties(b, t)) memset(h + i * deep, 0, size * 4);
        }
    }

    // The projection, transposed, in panels of W of its rows.
    void pack_projection(int64_t n, int64_t panel) const {
        const int64_t p = panel * W;
        to_panel(s.more + (n * s.P + p) * s.H, s.H, s.P - p, s.H, projection + (n * this->outputs + panel) * s.H * W, W);
    }

    void step(const Item& it, int64_t t, Range blocks) const {
        const int64_t rows = this->going_on(it.group, it.rows, t);
        const int64_t parts = ceil_div(rows, ROWS);
        const bool pairs = rows == 1 && s.P <= FEW;
        for (int64_t x = blocks.begin; x < blocks.end;) {
            const int64_t count = pairs && x + 1 < blocks.end ? 2 : 1;
            // There and back again: what of R was used last is still in the cache.
            const int64_t j = t & 1 ? blocks.begin + blocks.end - count - x : x;
            x += count;
            if (count == 2) {
                two_blocks(it, t, j);
                continue;
            }
            for (int64_t i = 0; i < parts; i++) {
                const Range r = part(rows, i, parts);
                with_known<ROWS>(r.end - r.begin, [&](auto height) { block<height.value>(it, t, r.begin, j); });
            }
        }
    }

    void run(int64_t thread, int64_t threads) const {
        const int64_t team = thread / plan.team, lane = thread % plan.team;
        Barrier* meet = this->barriers + 1 + team;
        const Range blocks = part(this->blocks, lane, plan.team);
        const Range units = {blocks.begin * Cell::BESIDE * W, least(width, blocks.end * Cell::BESIDE * W)};
        const Range panels = part(this->outputs, lane, plan.team);
        const Range outputs = projection ? Range{panels.begin * W, panels.end * W} : units;
        if (this->packed) {
            this->shared(team, blocks, [&](int64_t n, int64_t i) { pack(n, i); });
            if (projection) this->shared(team, panels, [&](int64_t n, int64_t i) { pack_projection(n, i); });
            wait_at(this->barriers, (int32_t)threads);
        }
        for (int64_t i = team; i < plan.items; i += plan.teams) begin(item(i), units, outputs);
        if (plan.team > 1) wait_at(meet, (int32_t)plan.team);
        const int64_t stride = plan.together ? plan.items : plan.teams;
        for (int64_t first = team; first < plan.items; first += stride)
            for (int64_t t = 0; t < s.T; t++) {
                const int64_t last = least(plan.items, first + stride);
                for (int64_t i = first; i < last; i += plan.teams) step(item(i), t, blocks);
                if (plan.team > 1) wait_at(meet, (int32_t)plan.team);
                if (!projection) continue;
                for (int64_t i = first; i < last; i += plan.teams) project(item(i), t, outputs);
                if (plan.team > 1) wait_at(meet, (int32_t)plan.team);
            }
        for (int64_t i = team; i < plan.items; i += plan.teams) end(item(i), units, outputs);
        if (this->past) fence();
    }
};

// ---- backward --------------------------------------------------------------------------------------------------------

template <class Cell> struct Backward : Layout<Cell> {
    using Base = Layout<Cell>;
    using Base::s, Base::plan, Base::width, Base::deep, Base::projection, Base::d_recurrent;
    using Base::as_it_goes, Base::sums, Base::pitch;

    // One item's own numbers: d h and d states, carried back in time; of a projection all that reached h, twice, and d of
    // what was projected; and lines, each a row's step: its d pre, and the h before it. They are summed up to d R while
    // the cache holds them: what lies in memory takes longer to read than to multiply.
    struct Item {
        int64_t n, group, rows;
        float *dh, *state[2], *d_bias, *reached[2], *du;
        float *d_pre, *h_before;  // lines, `pitch` apart; in panels of W
        int64_t* lines;           // how many there are from earlier steps, as each thread of a team counts them
        float* d_R;
    };
    // How many lines there is room for; two steps', in turn, where they are not summed up.
    int64_t most(int64_t rows) const { return as_it_goes ? most_of(rows, least(RECENT, rows * s.T)) : 2 * rows; }
    int64_t size_of(int64_t rows) const {
        return rows * (3 * deep + (1 + Cell::KEPT) * width) + (Cell::APART ? width : 0) + 2 * s.threads +
               most(rows) * (pitch() + deep);
    }

    Item item(int64_t i) const {
        Item it;
        it.n = i / plan.groups, it.group = i % plan.groups, it.rows = this->rows_of(it.group);
        const int64_t each = this->rows * width;
        it.dh = this->items + i * this->item_size;
        for (int k = 0; k < 2; k++) it.reached[k] = it.dh + (1 + k) * this->rows * deep;
        it.du = it.dh + 3 * this->rows * deep;
        for (int k = 0; k < Cell::KEPT; k++) it.state[k] = it.du + (1 + k) * each;
        it.d_pre = it.du + (1 + Cell::KEPT) * each;
        it.h_before = it.d_pre + most(this->rows) * pitch();
        it.lines = (int64_t*)(it.h_before + most(this->rows) * deep);
        it.d_bias = (float*)(it.lines + s.threads);
        it.d_R = it.group ? sums + (it.group - 1) * Cell::G * s.N * s.H * s.P : s.d_R;
        return it;
    }

    // R as it lies, in panels of W: for each panel, every gate's units one after the other.
    void pack(int64_t n, int64_t panel) const {
        float* to = this->packed + (n * this->outputs + panel) * Cell::G * width * W;
        const int64_t lanes = s.P - panel * W;
        for (int64_t g = 0; g < Cell::G; g++)
            for (int64_t j = 0; j < width; j++, to += W)
                store(to, j < s.H ? load_some(s.R + ((g * s.N + n) * s.H + j) * s.P + panel * W, lanes) : V{});
    }
    // The projection as it lies, in panels of W units.
    void pack_projection(int64_t n, int64_t panel) const {
        float* to = projection + (n * this->tiles + panel) * s.P * W;
        for (int64_t p = 0; p < s.P; p++)
            store(to + p * W, load_some(s.more + (n * s.P + p) * s.H + panel * W, s.H - panel * W));
    }

    void begin(const Item& it, int64_t lane, Range units, Range outputs) const {
        for (int64_t i = 0; i < it.rows; i++) {
            const int64_t b = this->row_of(it.group, i), head = b * s.N + it.n;
            for (int64_t p = outputs.begin; p < outputs.end; p++)
                it.dh[i * deep + p] = p < s.P && s.d_last[0] ? s.d_last[0][head * s.P + p] : 0;
            for (int64_t j = units.begin; j < units.end; j++)
                for (int k = 0; k < Cell::KEPT; k++)
                    it.state[k][i * width + j] = j < s.H && s.d_last[1 + k] ? s.d_last[1 + k][head * s.H + j] : 0;
        }
        it.lines[lane] = 0;
        if (it.group && as_it_goes)
            for (int64_t g = 0; g < Cell::G; g++)
                for (int64_t j = units.begin; j < least(s.H, units.end); j++)
                    memset(it.d_R + ((g * s.N + it.n) * s.H + j) * s.P, 0, s.P * 4);
        if (Cell::APART) memset(it.d_bias + units.begin, 0, (units.end - units.begin) * 4);
    }

    void end(const Item& it, Range units, Range outputs) const {
        const int64_t n = least(units.end, s.H) - units.begin, p = least(outputs.end, s.P) - outputs.begin;
        for (int64_t i = 0; i < it.rows; i++) {
            const int64_t b = this->row_of(it.group, i), head = b * s.N + it.n;
            if (p > 0 && s.d_start[0])
                memcpy(s.d_start[0] + head * s.P + outputs.begin, it.dh + i * deep + outputs.begin, p * 4);
            if (n <= 0) continue;
            for (int k = 0; k < (s.d_start[0] ? Cell::KEPT : 0); k++)
                memcpy(s.d_start[1 + k] + head * s.H + units.begin, it.state[k] + i * width + units.begin, n * 4);
            for (int64_t t = this->length(b); t < s.T; t++)
                for (int64_t g = 0; g < Cell::G; g++) memset(d_x_pre(b, t, g, it.n) + units.begin, 0, n * 4);
        }
    }

    float* d_x_pre(int64_t b, int64_t t, int64_t g, int64_t n) const {
        return s.d_x_pre + (((b * s.T + t) * Cell::G + g) * s.N + n) * s.H;
    }

    // One row's step. What is stored could be anything, as far as the compiler knows: all addresses are worked out before.
    void step(const Item& it, int64_t t, int64_t i, int64_t line, int64_t b, Range units) const {
        constexpr int G = Cell::G, KEEPS = Cell::KEEPS, KEPT = Cell::KEPT;
        const float* h_earlier = earlier_h(b, t, it.n);
        const bool first = t == 0, cut = !h_earlier, ahead = t > 1;
        const bool projected = Cell::PROJECTS && projection;
        const int64_t H = s.H, by_gate = s.N * H, in_line = width, head = (b * s.N + it.n) * H;
        const float* keeps = KEEPS ? this->kept(b, t, it.n) : nullptr;
        const float* earlier = KEEPS && !first ? this->kept(b, t - 1, it.n) + (KEEPS - KEPT) * W : nullptr;
        const float* soon = KEEPS && ahead ? this->kept(b, t - 2, it.n) : nullptr;
        const float* outside = projected ? nullptr : from_outside(b, t, it.n);  // or `gather` took it
        const float* outside_soon = ahead && outside ? from_outside(b, t - 2, it.n) : nullptr;
        const float* h_now = KEEPS ? nullptr : s.h + this->at(b, t, it.n);
        float* const d_x = d_x_pre(b, t, 0, it.n);
        float* const to = it.d_pre + line * pitch();
        float* const reached = projected ? it.du + i * width : it.dh + i * deep;
        float* const left = Cell::APART && !as_it_goes ? d_recurrent + this->at(b, t, it.n) : nullptr;
        float* const d_bias = it.d_bias;
        float* const output = projected ? this->unprojected + this->unit_at(b, t, it.n) : nullptr;
        float* d_states[KEPT + 1];
        const float* start[KEPT + 1];
        UNROLL for (int k = 0; k < KEPT; k++) {
            d_states[k] = it.state[k] + i * width;
            start[k] = first && !cut ? s.start[1 + k] + head : nullptr;
        }
        const bool past = this->past;
        for (int64_t j = units.begin; j < units.end; j += W) {
            const int64_t lanes = H - j;
            V kept[KEEPS + 1], before[KEPT + 1], d_state[KEPT + 1], d_pre[G];
            UNROLL for (int k = 0; k < KEEPS; k++) kept[k] = load(keeps + j * KEEPS + k * W);
            if (ahead) {  // the step before the one before: its states are read a step early
                UNROLL for (int k = 0; k < KEEPS; k++) ask_for(soon + j * KEEPS + k * W);
                if (outside_soon) ask_for(outside_soon + j);
            }
            UNROLL for (int k = 0; k < KEPT; k++) {
                d_state[k] = load(d_states[k] + j);
                if (cut) before[k] = V{};
                else if (first) before[k] = load_some(start[k] + j, lanes);
                else before[k] = load(earlier + j * KEEPS + k * W);
            }
            V h = {}, h_before = {}, apart = {};
            if (!KEEPS) h = load_some(h_now + j, lanes);
            if (Cell::APART && !cut) h_before = load_some(h_earlier + j, lanes);
            V dh = load(reached + j);
            if (outside) dh += load_some(outside + j, lanes);
            if constexpr (Cell::PROJECTS)
                if (projected) store_some(output + j, Cell::output(kept), lanes);
            const V through = Cell::back(kept, before, h, h_before, dh, d_state, d_pre, &apart);
            UNROLL for (int g = 0; g < G; g++) this->leave(d_x + g * by_gate + j, d_pre[g], lanes, past);
            if (Cell::APART) {
                d_pre[G - 1] = apart;
                if (left) store_some(left + j, apart, lanes);
                store(d_bias + j, load(d_bias + j) + apart);
            }
            UNROLL for (int g = 0; g < G; g++) store(to + g * in_line + j, d_pre[g]);
            UNROLL for (int k = 0; k < KEPT; k++) store(d_states[k] + j, cut ? V{} : d_state[k]);
            if (!projected) store(reached + j, cut ? V{} : through);
        }
    }

    // d h as it was given; null where none was.
    const float* from_outside(int64_t b, int64_t t, int64_t n) const {
        return s.d_h ? s.d_h + b * s.dh_b + t * s.dh_t + n * s.dh_n : nullptr;
    }

    // All that reached h at step t, from outside and from later steps.
    void gather(const Item& it, int64_t t, Range outputs) const {
        for (int64_t i = 0, rows = this->going_on(it.group, it.rows, t); i < rows; i++) {
            const int64_t b = this->row_of(it.group, i);
            const float* outside = from_outside(b, t, it.n);
            for (int64_t p = outputs.begin; p < outputs.end; p += W) {
                V dh = load(it.dh + i * deep + p);
                if (outside) dh += load_some(outside + p, s.P - p);
                store(it.reached[t & 1] + i * deep + p, dh);
                store(it.dh + i * deep + p, V{});
                store_some(this->d_projected + this->at(b, t, it.n) + p, dh, s.P - p);
            }
        }
    }
    // And what of it reached the units.
    void unproject(const Item& it, int64_t t, Range units) const {
        const int64_t rows = this->going_on(it.group, it.rows, t), size = units.end - units.begin;
        product(rows, size, s.P, it.reached[t & 1], projection + (it.n * this->tiles * W + units.begin) * s.P, {},
                it.du + units.begin, {deep, 1, W, s.P * W, width});
    }

    void run(int64_t thread, int64_t threads) const {
        const int64_t team = thread / plan.team, lane = thread % plan.team;
        Barrier* meet = this->barriers + 1 + team;
        const Range tiles = part(this->tiles, lane, plan.team), panels = part(this->outputs, lane, plan.team);
        const Range units = {tiles.begin * W, tiles.end * W}, outputs = {panels.begin * W, panels.end * W};
        this->shared(team, panels, [&](int64_t n, int64_t i) { pack(n, i); });
        if (projection) this->shared(team, tiles, [&](int64_t n, int64_t i) { pack_projection(n, i); });
        for (int64_t i = team; i < plan.items; i += plan.teams) begin(item(i), lane, units, outputs);
        wait_at(this->barriers, (int32_t)threads);
        const int64_t stride = plan.together ? plan.items : plan.teams;
        for (int64_t first = team; first < plan.items; first += stride)
            for (int64_t t = s.T - 1; t >= 0; t--) {
                const int64_t last = least(plan.items, first + stride);
                if (projection) {
                    for (int64_t i = first; i < last; i += plan.teams) gather(item(i), t, outputs);
                    if (plan.team > 1) wait_at(meet, (int32_t)plan.team);
                    for (int64_t i = first; i < last; i += plan.teams) unproject(item(i), t, units);
                }
                for (int64_t i = first; i < last; i += plan.teams) {
                    const Item it = item(i);
                    const int64_t line = line_of(it, t, lane);
                    for (int64_t row = 0, rows = this->going_on(it.group, it.rows, t); row < rows; row++) {
                        const int64_t b = this->row_of(it.group, row);
                        step(it, t, row, line + row, b, units);
                        if (as_it_goes) remember(it, t, line + row, b, outputs);
                    }
                }
                if (plan.team > 1) wait_at(meet, (int32_t)plan.team);
                bool added = false;
                for (int64_t i = first; i < last; i += plan.teams) {
                    const Item it = item(i);
                    if (t || s.d_start[0]) before(it, t, line_of(it, t, lane), outputs);
                    if (as_it_goes) added |= add(it, t, lane, units);
                }
                if (plan.team > 1 && added) wait_at(meet, (int32_t)plan.team);
            }
        for (int64_t i = team; i < plan.items; i += plan.teams) end(item(i), units, outputs);
        if (this->past) fence();
        wait_at(this->barriers, (int32_t)threads);
        if (thread == 0 && Cell::APART && s.d_more)
            for (int64_t i = 0; i < plan.items; i++)
                for (int64_t j = 0; j < s.H; j++) s.d_more[item(i).n * s.H + j] += item(i).d_bias[j];
        weights(thread, threads);
    }

    int64_t line_of(const Item& it, int64_t t, int64_t lane) const {
        return as_it_goes ? it.lines[lane] : (t & 1) * it.rows;
    }

    // The h before a step; null where the step begins from nothing.
    const float* earlier_h(int64_t b, int64_t t, int64_t n) const {
        if (this->resets(b, t)) return nullptr;
        if (!t) return s.start[0] ? s.start[0] + (b * s.N + n) * s.P : nullptr;
        return s.h + this->at(b, t - 1, n);
    }
    void remember(const Item& it, int64_t t, int64_t line, int64_t b, Range outputs) const {
        const float* x = earlier_h(b, t, it.n);
        const int64_t all = most(this->rows) * W;
        for (int64_t p = outputs.begin; p < outputs.end; p += W) {
            store(it.h_before + p / W * all + line * W, x ? load_some(x + p, s.P - p) : V{});
            if (t > 2) ask_for(s.h + this->at(b, t - 3, it.n) + p);
        }
    }
    // d R += d pre^T h_before over the lines there are, once there is room for no more.
    bool add(const Item& it, int64_t t, int64_t lane, Range units) const {
        const int64_t lines = it.lines[lane] + this->going_on(it.group, it.rows, t), all = most(this->rows);
        it.lines[lane] = lines;
        if (t && lines + it.rows <= all) return false;
        it.lines[lane] = 0;
        const int64_t size = least(s.H, units.end) - units.begin;
        for (int64_t g = 0; g < Cell::G; g++) {
            float* to = it.d_R + ((g * s.N + it.n) * s.H + units.begin) * s.P;
            if (size > 0)
                product(size, s.P, lines, it.d_pre + g * width + units.begin, it.h_before, {to, s.P}, to,
                        {1, pitch(), W, all * W, s.P});
        }
        return true;
    }

    // What d pre says of the h before.
    void before(const Item& it, int64_t t, int64_t line, Range outputs) const {
        const int64_t rows = this->going_on(it.group, it.rows, t), size = outputs.end - outputs.begin, G = Cell::G;
        if (size <= 0) return;
        const float* R = this->packed + (it.n * this->outputs * W + outputs.begin) * G * width;
        float* dh = it.dh + outputs.begin;
        product(rows, size, G * width, it.d_pre + line * pitch(), R, {dh, deep}, dh,
                {pitch(), 1, W, G * width * W, deep}, t & 1);
        if (s.reset)
            for (int64_t row = 0; row < rows; row++)
                if (this->resets(this->row_of(it.group, row), t))
                    memset(it.dh + row * deep + outputs.begin, 0, size * 4);
    }

    // d R[g, n] = sum over rows and steps of d pre h_before^T, if it is not there yet, group by group; of a projection,
    // of d h and what was projected.
    void weights(int64_t thread, int64_t threads) const {
        const int64_t G = Cell::G, H = s.H, P = s.P, size = G * s.N * H * P;
        if (as_it_goes) {
            const Range mine = part(size, thread, threads);
            for (int64_t group = 1; group < plan.groups; group++)
                for (int64_t x = mine.begin; x < mine.end; x++) s.d_R[x] += sums[(group - 1) * size + x];
        } else {
            outer(
                thread, threads, G, H, P,
                [&](int64_t b, int64_t t, int64_t n, int64_t g) -> const float* {
                    return Cell::APART && g == G - 1 ? d_recurrent + this->at(b, t, n) : d_x_pre(b, t, g, n);
                },
                [&](int64_t b, int64_t t, int64_t n) { return earlier_h(b, t, n); }, s.d_R);
        }
        if (projection)
            outer(
                thread, threads, 1, P, H,
                [&](int64_t b, int64_t t, int64_t n, int64_t) { return this->d_projected + this->at(b, t, n); },
                [&](int64_t b, int64_t t, int64_t n) { return this->unprojected + this->unit_at(b, t, n); }, s.d_more);
    }

    // sum[g, n] (M x N) += left^T right over all rows and steps; a null `right` is 0. A thread sums for rows of its own,
    // in one order.
    template <class Left, class Right>
    void outer(int64_t thread, int64_t threads, int64_t G, int64_t M, int64_t N, Left left, Right right, float* sum) const {
        const int64_t heights = ceil_div(G * M, TALL), jobs = s.N * heights;
        if (!jobs) return;
        float* a = this->packed + thread * LINES * (TALL + most_of(width, deep));
        float* b = a + LINES * TALL;
        const Range mine = part(jobs, thread, threads);
        for (int64_t n = mine.begin / heights; n * heights < mine.end; n++) {
            const int64_t from = mine.begin > n * heights ? mine.begin - n * heights : 0;
            const int64_t to = least(heights, mine.end - n * heights);
            int64_t rows[LINES], steps[LINES];
            for (int64_t row = 0, t = 0; row < s.B;) {
                int64_t lines = 0;
                for (; lines < LINES && row < s.B;) {  // as many steps as fit, whichever rows they are of
                    if (t >= this->length(row)) { row++, t = 0; continue; }
                    const float* x = right(row, t, n);
                    for (int64_t j = 0; j < whole(N); j += W)
                        store(b + j * LINES + lines * W, x ? load_some(x + j, N - j) : V{});
                    rows[lines] = row, steps[lines] = t++, lines++;
                }
                for (int64_t job = from; job < to; job++) {
                    const int64_t m0 = job * TALL, m1 = least(G * M, m0 + TALL);
                    for (int64_t m = m0; m < m1;) {  // the rows of one gate lie side by side
                        const int64_t g = m / M, stop = least(m1, (g + 1) * M);
                        for (int64_t at = 0; at < lines; at++)
                            memcpy(a + at * TALL, left(rows[at], steps[at], n, g) + m - g * M, (stop - m) * 4);
                        float* to = sum + ((g * s.N + n) * M + m - g * M) * N;
                        product(stop - m, N, lines, a, b, {to, N}, to, {1, TALL, W, LINES * W, N});
                        m = stop;
                    }
                }
            }
        }
    }
};

// ---- calls -----------------------------------------------------------------------------------------------------------

template <class Run, class Cell> void call(const Recurrence& s, bool backward) {
    Run run = {{s}};
    // A row of d x_pre has H numbers a gate, what is kept of W units KEEPS * W.
    const int64_t size = s.B * s.T * s.N * s.H;
    run.past = backward ? goes_past(s.d_x_pre, s.H, size * Cell::G)
                        : goes_past(s.saved, Cell::KEEPS * W, size * Cell::KEEPS);
    run.width = whole(s.H), run.tiles = run.width / W, run.blocks = ceil_div(run.tiles, Cell::BESIDE);
    run.deep = whole(s.P), run.outputs = run.deep / W;
    const bool projects = Cell::PROJECTS && s.more, packs = backward || projects || s.T * s.B > 16;
    // The most room that any plan can ask for, whatever number of threads comes: each group may have a row more.
    const int64_t groups = most_of(1, least(s.B, s.threads));
    // A head's d R has to stay in the cache, a group's own to be worth adding up.
    const int64_t sum = Cell::G * s.H * s.P;
    int64_t own = (groups - 1) * s.N * sum, lines = groups * RECENT * (run.pitch() + run.deep);
    run.as_it_goes = backward && sum <= NEAR && (groups == 1 || s.B * s.T >= 16 * groups) && own + s.N * lines <= ROOM;
    if (!run.as_it_goes) own = lines = 0;
    const int64_t items = s.N * (run.size_of(s.B + groups) + groups * (run.width + 2 * s.threads + 32) + lines);
    const int64_t wider = most_of(run.width, run.deep), steps = s.B * s.T * s.N;
    int64_t packed = packs ? s.N * (run.blocks * Cell::BESIDE * W) * run.deep * Cell::G : 0;
    const int64_t sums = backward ? s.threads * LINES * (TALL + wider) : 0;
    packed = most_of(sums, packed) + 16;
    const int64_t projection = projects ? s.N * run.width * run.deep : 0;
    const int64_t order = s.B * 2 + 16, barriers = (s.threads + 1) * (int64_t)(sizeof(Barrier) / 4) + 16;
    const int64_t apart = !backward ? 0 : projects ? steps * (s.H + s.P) : Cell::APART && !run.as_it_goes ? steps * s.H : 0;
    float* p = align(workspace(packed + projection + items + order + barriers + apart + own + 112));
    run.packed = packs ? p : nullptr, p = align(p + packed);
    run.projection = projects ? p : nullptr, p = align(p + projection);
    run.items = p, p = align(p + items);
    run.order = (int64_t*)p, p = align(p + order);
    run.barriers = (Barrier*)p, p = align(p + barriers);
    run.sums = p, p = align(p + own);
    run.d_recurrent = run.unprojected = p, run.d_projected = p + steps * s.H;
    for (int64_t i = 0; i <= s.threads; i++) run.barriers[i] = Barrier();
    sort_by_length(s, run.order);
    // For a little work it takes longer to wake the others.
    const int64_t threads = s.B * s.T * s.N * s.H * s.P * Cell::G < 200000 ? 1 : s.threads;
    run_parallel(
        [](void* data, int64_t thread, int64_t threads) {
            Run mine = *(Run*)data;
            mine.plan = plan_of(mine.s, Cell::G, threads);
            mine.rows = ceil_div(mine.s.B, mine.plan.groups);
            mine.small = mine.s.B * mine.s.N * mine.s.H * Cell::G / threads < 1 << 15;
            mine.item_size = to16(mine.size_of(mine.rows));
            mine.run(thread, threads);
        },
        &run, threads);
}

template <class Cell> void call(const Recurrence& s, int64_t backward) {
    if (backward) call<Backward<Cell>, Cell>(s, true);
    else call<Forward<Cell>, Cell>(s, false);
}

inline void recurrent(int64_t cell, int64_t backward, const Recurrence* s) {
    switch (cell * 2 + s->option) {
        case 0: return call<RNN<false>>(*s, backward);
        case 1: return call<RNN<true>>(*s, backward);
        case 2: return call<LSTM<true>>(*s, backward);
        case 3: return call<LSTM<false>>(*s, backward);
        case 4: return call<GRU>(*s, backward);
        case 6: return call<SLSTM<true>>(*s, backward);
        case 7: return call<SLSTM<false>>(*s, backward);
    }
}

}  // namespace VARIANT
