// A plain concatenation, of real numbers or of bytes (moves.cpp), is no op but a place in memory. Each operand is a
// slice of its pixels:
//
//   pixel of the result   | operand 0 ...... | operand 1 ... | operand 2 ........ | what is stored too much |
//
// A slice has the strides of the whole, so whoever writes or reads it needs to know nothing of it. A concatenation may
// be an operand of a later one, and several may share operands, as long as each finds all of its own side by side.
// All values in one memory are a join. Six facts make this safe:
//
//   a. Kernels store whole vectors, and so overwrite the beginning of the slices behind. Those are written later, by an
//      op of a higher index (a barrier stands between two ops). Behind the last slice the pixel is long enough.
//   b. Nobody relies on what lies behind the last channel of a value of real numbers or bytes, which is unspecified
//      anyhow.
//   c. An op that writes a slice may read others, but no vector of these reaches into what it writes: else it would
//      read, if only for lanes that count for nothing, what another thread is writing.
//   d. The slice at the beginning of the pixels clears the margins of the rows, and no other does. If there are
//      margins, it is written first. Later writers stay within the pixels.
//   e. The memory lives from the first writer to the last reader of all of its values (buffers.cpp).
//   f. A slice is never written over a shortcut, nor anything over a slice, unless the memory has no later reader and
//      the slice is at its beginning (buffers.cpp).
#include "plan/joins.h"

#include <algorithm>
#include <utility>

#include "memory.h"
#include "plan/fusion.h"
#include "plan/moves.h"

namespace bbg {
namespace {

// Values in one memory. Each concatenation that joins it asks anew whether all is safe, so this bounds the time of
// planning; a larger one is copied.
constexpr size_t kMostMembers = 512;

// A slice written by an op of its own: its channels begin at `begin`, up to `stored` whole vectors are written.
struct Slice {
  int writer;
  int64_t begin, stored;
};

// The result of a plain concatenation: real numbers, or bytes of bytes. Else kNone.
int joined_value(const Graph& graph, const Op& op) {
  if (op.kind() != Kind::concat || op.operands.empty() || !op.sources.empty() || !is_plain(op)) return kNone;
  return graph.input_of(op).type == Type::bytes ? op.bytes : op.real;
}

// Whether the operands of `op` lie side by side in one memory that is not their own.
bool are_side_by_side(const Graph& graph, const Places& places, const Op& op) {
  const Place first = places[size_t(op.input())];
  int64_t channel = first.channel;
  for (int v : op.operands) {
    const Place place = places[size_t(v)];
    if (place.value != first.value || place.channel != channel || place.value == v) return false;
    channel += graph.values[size_t(v)].channels;
  }
  return true;
}

// Channels that a reader of a slice may touch from its first on: whole vectors, which need not begin at a multiple of
// the lanes where a mean of channels is taken or a shortcut repeats its own. Convolutions touch no others than they
// read. Bytes are read as many at a time as a vector holds.
int64_t channels_read(const Graph& graph, const Op& op, int value, int lanes) {
  constexpr int64_t kMostBytes = 64;
  const int64_t channels = graph.values[size_t(value)].channels;
  if (graph.values[size_t(value)].type == Type::bytes) return channels + kMostBytes;
  const Kind kind = op.kind();
  const bool repeats = value != op.shortcut && value == stored_value(graph, op.shortcut);
  const bool anywhere = kind == Kind::match_channels || repeats;
  const bool exact = kind == Kind::conv && value == op.input() && !repeats;
  return exact ? channels : anywhere ? channels + lanes - 1 : round_up(channels, lanes);
}

// Values that lie in each value's memory, itself among them.
using Members = std::vector<std::vector<int>>;

// Facts a, c and d for the memory of `root`.
bool is_safe(const Graph& graph, const Places& places, const std::vector<int>& members, int root, int lanes) {
  const auto in_root = [&](int v) { return v != kNone && places[size_t(v)].value == root; };
  std::vector<Slice> slices;
  bool margins = false;
  for (int written : members) {
    const Value& value = graph.values[size_t(written)];
    for (int reader : value.readers) {
      const Op& conv = graph.ops[size_t(reader)];
      margins |= conv.is_conv() && conv.padding[1] > 0;
    }
    const Op& op = graph.ops[size_t(value.writer)];
    if (is_in_place(graph, places, op)) continue;
    const int64_t begin = places[size_t(written)].channel;
    slices.push_back({value.writer, begin, begin + round_up(value.channels, lanes)});
    std::vector<int> read = op.operands;
    read.push_back(stored_value(graph, op.shortcut));
    const int before = op.operands.empty() ? kNone : graph.input_of(op).writer;
    if (before != kNone && fused_pool(graph, before) == value.writer) {
      read.push_back(graph.ops[size_t(before)].input());
    }
    for (int v : read) {
      if (!in_root(v)) continue;
      const int64_t from = places[size_t(v)].channel;
      if (from < slices.back().stored && begin < from + channels_read(graph, op, v, lanes)) return false;
    }
  }
  std::sort(slices.begin(), slices.end(), [](const Slice& a, const Slice& b) { return a.begin < b.begin; });
  for (size_t a = 0; a < slices.size(); ++a) {
    for (size_t b = a + 1; b < slices.size(); ++b) {
      const bool overwritten = slices[b].begin < slices[a].stored, clears = margins && slices[a].begin == 0;
      if (!overwritten && !clears) break;
      if (slices[b].writer <= slices[a].writer) return false;
    }
  }
  return true;
}

// Whether a value may become a slice at all.
bool may_move(const Places& places, const Op& op, int v) {
  return v != 0 && places[size_t(v)].value == v && std::count(op.operands.begin(), op.operands.end(), v) == 1;
}

}  // namespace

bool is_in_place(const Graph& graph, const Places& places, const Op& op) {
  const int joined = joined_value(graph, op);
  if (joined == kNone || !are_side_by_side(graph, places, op)) return false;
  const Place result = places[size_t(joined)], first = places[size_t(op.input())];
  return result.value == first.value && result.channel == first.channel;
}

Places place_joins(const Graph& graph, int lanes) {
  Places places;
  Members members;
  for (size_t v = 0; v < graph.values.size(); ++v) places.push_back({int(v), 0}), members.push_back({int(v)});
  // From the last on, since the last of several concatenations of the same values has most of them.
  for (size_t i = graph.ops.size(); i-- > 0;) {
    const Op& op = graph.ops[i];
    const int joined = joined_value(graph, op);
    if (joined == kNone || op.operands.size() > kMostMembers) continue;
    const Place own = places[size_t(joined)];
    std::vector<std::pair<int, Place>> moved;
    if (are_side_by_side(graph, places, op)) {
      if (own.value != joined) continue;  // it has a place already, elsewhere
      moved.emplace_back(joined, places[size_t(op.input())]);
    } else {
      int64_t channel = own.channel;
      for (int v : op.operands) {
        if (may_move(places, op, v)) moved.emplace_back(v, Place{own.value, channel});
        channel += graph.values[size_t(v)].channels;
      }
      if (moved.size() != op.operands.size()) continue;
    }
    const int root = moved[0].second.value;
    std::vector<int>& inside = members[size_t(root)];
    if (inside.size() + moved.size() > kMostMembers) continue;
    for (const auto& [v, place] : moved) places[size_t(v)] = place, inside.push_back(v);
    if (is_safe(graph, places, inside, root, lanes)) continue;
    for (const auto& [v, place] : moved) places[size_t(v)] = {v, 0}, inside.pop_back();
  }
  return places;
}

std::vector<int64_t> joined_channels(const Graph& graph, const Places& places, int lanes) {
  std::vector<int64_t> most(places.size());
  for (size_t v = 0; v < places.size(); ++v) {
    int64_t& whole = most[size_t(places[v].value)];
    whole = std::max(whole, round_up(places[v].channel + round_up(graph.values[v].channels, lanes), lanes));
  }
  return most;
}

}  // namespace bbg
