#include "plan/buffers.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "memory.h"
#include "plan/fusion.h"

namespace bbg {
namespace {

constexpr int64_t kChunkBytes = int64_t{1}
                                << 20;  // of workspace for the images of a chunk: it should stay in the cache
constexpr int64_t kSlack = 64;          // behind each value, for reads of whole words

// A stretch of the workspace, needed from op `first` to op `last`.
struct LiveRange {
  int64_t bytes;
  int first, last;
  int64_t offset;
};

// Whether a value needs memory: not if it stays in a fused pool's buffer, or no op writes it any more.
bool is_stored(const Graph& graph, int value) {
  const int writer = graph.values[size_t(value)].writer;
  if (writer == kNone) return true;
  const Op& op = graph.ops[size_t(writer)];
  return (op.real == value || op.bits == value || op.bytes == value) && fused_pool(graph, writer) == kNone;
}

// Free stretches of the workspace, each as long as it can be: by offset and by size.
class FreeMemory {
 public:
  // The first free stretch that is large enough, among the first few; else the smallest of all, or else the end.
  int64_t take(int64_t bytes) {
    constexpr int kFirst = 64;
    auto first = by_offset_.begin();
    for (int i = 0; i < kFirst && first != by_offset_.end() && first->second < bytes; ++i) ++first;
    const bool near = first != by_offset_.end() && first->second >= bytes;
    const auto found = near ? by_size_.find({first->second, first->first}) : by_size_.lower_bound({bytes, 0});
    if (found == by_size_.end()) {
      // A free stretch at the end is taken as far as it goes.
      const auto last = by_offset_.empty() ? by_offset_.end() : std::prev(by_offset_.end());
      const bool grows = last != by_offset_.end() && last->first + last->second == end_;
      const int64_t at = grows ? last->first : end_;
      if (grows) remove(last);
      end_ = at + bytes;
      return at;
    }
    const auto [size, at] = *found;
    remove(by_offset_.find(at));
    if (size > bytes) insert(at + bytes, size - bytes);
    return at;
  }

  void give(int64_t at, int64_t bytes) {
    const auto next = by_offset_.lower_bound(at);
    if (next != by_offset_.end() && next->first == at + bytes) {
      bytes += next->second;
      remove(next);
    }
    const auto behind = by_offset_.lower_bound(at);
    if (behind != by_offset_.begin()) {
      const auto before = std::prev(behind);
      if (before->first + before->second == at) {
        at = before->first, bytes += before->second;
        remove(before);
      }
    }
    insert(at, bytes);
  }

  int64_t end() const { return end_; }

 private:
  void insert(int64_t at, int64_t bytes) { by_offset_[at] = bytes, by_size_.insert({bytes, at}); }
  void remove(std::map<int64_t, int64_t>::iterator stretch) {
    by_size_.erase({stretch->second, stretch->first});
    by_offset_.erase(stretch);
  }

  std::map<int64_t, int64_t> by_offset_;
  std::set<std::pair<int64_t, int64_t>> by_size_;
  int64_t end_ = 0;
};

// Op after op, each range that begins takes free memory; returns the bytes needed in all. Ops are numbered from 0, the
// graph's input is there before them.
int64_t pack_live_ranges(std::vector<LiveRange>& ranges, int ops) {
  std::vector<std::vector<LiveRange*>> begins(size_t(ops) + 1), ends(size_t(ops) + 3);
  for (LiveRange& r : ranges) {
    if (r.bytes == 0) continue;
    begins[size_t(r.first + 1)].push_back(&r);
    ends[size_t(r.last + 2)].push_back(&r);
  }
  FreeMemory memory;
  for (size_t i = 0; i < begins.size(); ++i) {
    for (LiveRange* r : ends[i]) memory.give(r->offset, r->bytes);
    for (LiveRange* r : begins[i]) r->offset = memory.take(r->bytes);
  }
  return memory.end();
}

// The value in whose memory each value lives. Three rules let values share memory.
//
// 1. A value placed in a join lies in its memory (joins.cpp).
//
// 2. An elided op writes nothing: its result is its input's memory.
//
// 3. An op that adds a shortcut writes its real result over it. Number (n, y, x, c) of the result then has the address
//    of number (n, y, x, c) of the shortcut, and nothing else has that address. This is safe because of three facts:
//
//      a. Both have the same strides and margins, begin at the beginning of a pixel (no slice of a join behind the
//         first), and the shortcut stores all its channels (no wrapping reads). So a register block of an item reads
//         exactly the addresses that it writes, and it loads the shortcut before it stores the result
//         (apply_and_store). Items are disjoint, so no other item, on whatever thread, touches them.
//      b. No later op and no output reads that memory for the sake of the shortcut: op i is its last reader. `last`
//         counts reads per memory, so readers of values that share it already are included.
//      c. Op i does not read the same memory as an operand. It would read other addresses than it writes (the windows
//         of neighbouring rows overlap), which another item may have overwritten.
//
//    A fused convolution runs later than its index says, but its operand is a value of bytes, over which no op writes.
//    Margins are zero before and after. What lies behind the last channel is unspecified before and after.
std::vector<int> assign_buffers(const Graph& graph, const Places& places, const Layouts& layouts) {
  std::vector<int> buffer, last(layouts.size(), kNone);
  // The value in whose memory `v` lives so far.
  const auto memory_of = [&](int v) {
    while (buffer[size_t(v)] != v) v = buffer[size_t(v)] = buffer[size_t(buffer[size_t(v)])];
    return v;
  };
  for (const Place& place : places) buffer.push_back(place.value);
  for (const Op& op : graph.ops) {
    if (is_elided(graph, op)) buffer[size_t(op.real)] = buffer[size_t(op.input())];
  }
  const auto read = [&](int v, size_t op) { last[size_t(memory_of(v))] = int(op); };
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    for (int v : graph.ops[i].operands) read(v, i);
    if (graph.ops[i].shortcut != kNone) read(graph.ops[i].shortcut, i);
  }
  for (int v : graph.output_values()) read(v, graph.ops.size());

  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const Op& op = graph.ops[i];
    if (op.shortcut == kNone || op.real == kNone || memory_of(op.real) != op.real) continue;
    const Layout &from = layouts[size_t(op.shortcut)], &to = layouts[size_t(op.real)];
    const int shared = memory_of(op.shortcut);
    const bool real = graph.values[size_t(op.shortcut)].type == Type::real;
    const bool same_addresses = real && from.pixel == to.pixel && from.left == to.left && from.right == to.right &&
                                from.slice == 0 && from.channels == to.channels;
    const bool is_operand =
        std::any_of(op.operands.begin(), op.operands.end(), [&](int v) { return memory_of(v) == shared; });
    if (!same_addresses || last[size_t(shared)] != int(i) || is_operand) continue;
    last[size_t(shared)] = last[size_t(op.real)];
    buffer[size_t(op.real)] = shared;
  }
  for (size_t v = 0; v < buffer.size(); ++v) buffer[v] = memory_of(int(v));
  return buffer;
}

}  // namespace

BufferPlan plan_buffers(const Graph& graph, const Places& places, const Layouts& layouts,
                        const std::vector<int64_t>& scratch) {
  BufferPlan plan{assign_buffers(graph, places, layouts), {}, {}, 0, 1};
  const int last_op = int(graph.ops.size());
  std::vector<LiveRange> ranges;  // of the values, then of the scratch memory of the ops
  for (size_t v = 0; v < layouts.size(); ++v) {
    const int writer = graph.values[v].writer;
    const bool stored = plan.buffer[v] == int(v) && is_stored(graph, int(v));
    ranges.push_back({stored ? layouts[v].image : 0, writer, writer, 0});
  }
  for (size_t v = 0; v < layouts.size(); ++v) {  // a join is there from its first slice on
    int& first = ranges[size_t(places[v].value)].first;
    first = std::min(first, graph.values[v].writer);
  }
  const auto needed = [&](int v, int op) {
    int& last = ranges[size_t(plan.buffer[size_t(v)])].last;
    last = std::max(last, op);
  };
  for (int i = 0; i < last_op; ++i) {
    const Op& op = graph.ops[size_t(i)];
    const int until = std::max(i, fused_pool(graph, i));  // a fused convolution runs when its pool does
    for (int v : op.operands) needed(v, until);
    for (int v : {op.shortcut, op.real}) {
      if (v != kNone) needed(v, until);
    }
    ranges.push_back({scratch[size_t(i)], i, i, 0});
  }
  for (int v : graph.output_values()) needed(v, last_op);

  int64_t per_image = 1;
  for (const LiveRange& r : ranges) per_image = std::min(per_image + r.bytes, kMemoryLimit);
  plan.chunk = std::clamp<int64_t>(kChunkBytes / per_image, 1, kChunkImages);
  for (LiveRange& r : ranges) {
    if (r.bytes) r.bytes = round_up(r.bytes * plan.chunk + kSlack, int64_t(kCacheLine));
  }
  plan.bytes = pack_live_ranges(ranges, last_op);
  for (size_t r = 0; r < ranges.size(); ++r) {
    (r < layouts.size() ? plan.values : plan.scratch).push_back({ranges[r].offset, ranges[r].bytes});
  }
  return plan;
}

}  // namespace bbg
