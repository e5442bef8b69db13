// A channel shuffle is a concatenation and selections of it, and none of the three computes anything:
//
//   a --+                +-- select [2, 0] --> round --> bytes         a.bytes --+
//       +-- concat --> c +                                      =>               +-- [a.2, a.0], [b.1, a.1] as bytes
//   b --+                +-- select [4, 1] --> round --> bytes         b.bytes --+
//
// 1. A plain concatenation or selection that nothing but other moves read does not run: its readers take the channels
//    from where it would have taken them (Op::sources). A concatenation with a real result takes part only if it does
//    not run either, since its operands, whole values, may be its places in memory (joins.cpp).
//
// 2. A move, or a max-pool, whose only result is bytes reads bytes: those that the writers of its operands form. Its
//    own rounding, with its scale and bias per channel, becomes theirs. Each byte is the same:
//
//      a. A writer rounds the real number that it would have stored, by the same instructions.
//      b. A writer has one rounding per channel. So an op is left as it is where a channel that it needs is rounded
//         otherwise already. From the last op on, since a move that becomes one of bytes asks those before it.
//      c. Rounding with a scale that is not negative never falls, so it commutes with the maximum.
//
//    A real result that nothing reads any more is not stored.
#include "plan/moves.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

#include "plan/fusion.h"

namespace bbg {
namespace {

bool is_move(const Op& op) { return op.kind() == Kind::concat || op.kind() == Kind::select; }

// Where each channel of the result of a move comes from: values and their channels.
std::vector<Source> sources_of(const Graph& graph, const Op& op) {
  std::vector<Source> sources;
  if (!op.sources.empty()) {
    for (const Source& s : op.sources) sources.push_back({op.operands[size_t(s.from)], s.channel});
  } else if (op.kind() == Kind::select) {
    for (int64_t c = 0; c < op.index.count; ++c) sources.push_back({op.input(), op.index[c]});
  } else {
    for (int v : op.operands) {
      for (int64_t c = 0; c < graph.values[size_t(v)].channels; ++c) sources.push_back({v, int32_t(c)});
    }
  }
  return sources;
}

// Whether the sources are whole values, one after the other, as a concatenation has them.
bool are_whole(const Graph& graph, const std::vector<Source>& sources) {
  const auto ends = [&](const Source& s) { return s.channel + 1 == graph.values[size_t(s.from)].channels; };
  for (size_t i = 0; i < sources.size(); ++i) {
    const bool begins = i == 0 || ends(sources[i - 1]);
    if (sources[i].channel != (begins ? 0 : sources[i - 1].channel + 1)) return false;
    if (!begins && sources[i].from != sources[i - 1].from) return false;
  }
  return ends(sources.back());
}

// Op number `index` takes its channels from `sources`.
void read_from(Graph& graph, size_t index, const std::vector<Source>& sources) {
  Op& op = graph.ops[index];
  op.sources.clear();
  const bool concatenates = op.kind() == Kind::concat && are_whole(graph, sources);
  std::vector<int> operands;
  std::unordered_map<int, int> position;  // of each operand
  for (const Source& s : sources) {
    if (concatenates) {
      if (s.channel == 0) operands.push_back(s.from);
      continue;
    }
    const auto [found, fresh] = position.emplace(s.from, int(operands.size()));
    if (fresh) operands.push_back(s.from);
    op.sources.push_back({found->second, s.channel});
  }
  graph.set_operands(index, std::move(operands));
}

bool writes_only(const Op& op, int Op::*result) {
  int others = 0;
  for (int Op::*r : {&Op::real, &Op::bits, &Op::bytes}) others += r != result && op.*r != kNone;
  return op.*result != kNone && others == 0;
}

// ---- 1: moves go into their readers ---------------------------------------------------------------------------------

// Of each op, whether it is a move that only moves read.
std::vector<bool> moves_between_moves(const Graph& graph) {
  std::vector<bool> between(graph.ops.size());
  for (size_t i = graph.ops.size(); i-- > 0;) {
    const Op& op = graph.ops[i];
    if (!is_move(op) || !is_plain(op) || !writes_only(op, &Op::real)) continue;
    const Value& result = graph.values[size_t(op.real)];
    const auto takes_part = [&](int j) {
      const Op& reader = graph.ops[size_t(j)];
      return is_move(reader) && (reader.kind() == Kind::select || reader.real == kNone || between[size_t(j)]);
    };
    between[i] = !result.readers.empty() && !result.shortcuts && !result.is_output &&
                 std::all_of(result.readers.begin(), result.readers.end(), takes_part);
  }
  return between;
}

void join_moves(Graph& graph) {
  const std::vector<bool> between = moves_between_moves(graph);
  std::map<int, std::vector<Source>> passed;  // of the results of the ops between moves
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    Op& op = graph.ops[i];
    if (!is_move(op)) continue;
    bool changed = false;
    std::vector<Source> sources = sources_of(graph, op);
    for (Source& s : sources) {
      const auto found = passed.find(s.from);
      if (found != passed.end()) s = found->second[size_t(s.channel)], changed = true;
    }
    if (between[i]) {
      passed[op.real] = sources;
      graph.set_operands(i, {}), op.real = kNone;
    } else if (changed) {
      read_from(graph, i, sources);
    }
  }
}

// ---- 2: moves of bytes ----------------------------------------------------------------------------------------------

struct Rounding {
  float scale, bias;
  bool operator==(const Rounding& o) const { return scale == o.scale && bias == o.bias; }
};

// By channel, those that are decided.
using Roundings = std::map<int64_t, Rounding>;

Rounding rounding_of(const Op& op, int64_t channel) {
  const auto &scale = op.epilogue[BBG_BYTE_SCALE], &bias = op.epilogue[BBG_BYTE_BIAS];
  return {scale ? scale[channel] : 1.0f, bias ? bias[channel] : 0.0f};
}

class ByteMoves {
 public:
  explicit ByteMoves(Graph& graph) : graph_(graph), decided_(graph.values.size()) {
    for (const Op& op : graph.ops) {
      if (op.bytes == kNone || op.real == kNone) continue;
      for (int64_t c = 0; c < graph.values[size_t(op.real)].channels; ++c) {
        decided_[size_t(op.real)][c] = rounding_of(op, c);
      }
    }
  }

  void run() {
    for (size_t i = graph_.ops.size(); i-- > 0;) {
      Op& op = graph_.ops[i];
      if (op.operands.empty() || !is_plain(op) || !writes_only(op, &Op::bytes)) continue;
      if (is_move(op) || (op.kind() == Kind::max_pool && may_pool_bytes(op))) try_bytes(i);
    }
    for (int v : given_) give_roundings(v);
  }

 private:
  bool may_pool_bytes(const Op& op) const {
    const auto& scale = op.epilogue[BBG_BYTE_SCALE];
    const bool rises = !scale || *std::min_element(scale.data, scale.data + scale.count) >= 0;
    const int writer = graph_.input_of(op).writer;
    return rises && writer != kNone && fused_pool(graph_, writer) == kNone;  // else its rows never leave the cache
  }

  // Where the writers of all channels can form the bytes that `op` writes, it reads these.
  void try_bytes(size_t index) {
    Op& op = graph_.ops[index];
    std::vector<Source> sources;
    if (is_move(op)) {
      sources = sources_of(graph_, op);
    } else {
      for (int64_t c = 0; c < graph_.input_of(op).channels; ++c) sources.push_back({op.input(), int32_t(c)});
    }
    std::map<int, Roundings> asked;
    for (size_t i = 0; i < sources.size(); ++i) {
      const Source& s = sources[i];
      const Value& value = graph_.values[size_t(s.from)];
      if (value.type != Type::real || value.writer == kNone) return;
      const Rounding wanted = rounding_of(op, int64_t(i));
      for (const Roundings* known : {&decided_[size_t(s.from)], &asked[s.from]}) {
        const auto found = known->find(s.channel);
        if (found != known->end() && !(found->second == wanted)) return;
      }
      asked[s.from][s.channel] = wanted;
    }
    for (auto& [value, roundings] : asked) {
      decided_[size_t(value)].insert(roundings.begin(), roundings.end());
      Op& writer = graph_.ops[size_t(graph_.values[size_t(value)].writer)];
      if (writer.bytes != kNone) continue;
      given_.insert(value);
      writer.bytes = int(graph_.values.size());
      Value bytes = graph_.values[size_t(value)];
      bytes.name.clear(), bytes.type = Type::bytes, bytes.readers.clear(), bytes.shortcuts = 0, bytes.is_output = false;
      graph_.values.push_back(bytes);
      decided_.emplace_back();
    }
    const std::vector<int> before = op.operands;
    std::vector<int> operands = before;
    for (int& v : operands) v = graph_.ops[size_t(graph_.values[size_t(v)].writer)].bytes;
    graph_.set_operands(index, std::move(operands));
    op.epilogue[BBG_BYTE_SCALE] = op.epilogue[BBG_BYTE_BIAS] = {};
    for (int v : before) drop_if_unread(v);
  }

  void drop_if_unread(int value) {
    if (graph_.values[size_t(value)].is_read()) return;
    Op& writer = graph_.ops[size_t(graph_.values[size_t(value)].writer)];
    if (writer.real != value) return;  // an operand that came twice
    writer.real = kNone;
    if (given_.erase(value)) give_roundings(value);  // it may be the next to ask for bytes
  }

  // Channels that nobody asked for become 0.
  void give_roundings(int value) {
    Op& writer = graph_.ops[size_t(graph_.values[size_t(value)].writer)];
    const int64_t channels = graph_.values[size_t(value)].channels;
    const auto numbers = std::make_shared<std::vector<float>>(size_t(2 * channels));
    for (const auto& [c, rounding] : decided_[size_t(value)]) {
      (*numbers)[size_t(c)] = rounding.scale, (*numbers)[size_t(channels + c)] = rounding.bias;
    }
    writer.epilogue[BBG_BYTE_SCALE] = {numbers->data(), channels};
    writer.epilogue[BBG_BYTE_BIAS] = {numbers->data() + channels, channels};
    graph_.owned.push_back(numbers);
  }

  Graph& graph_;
  std::vector<Roundings> decided_;  // of each real value: how its writer rounds it to bytes
  std::set<int> given_;             // real values whose writers got bytes here, and no numbers yet
};

}  // namespace

bool is_plain(const Op& op) {
  constexpr int kOfReal = 1 << BBG_SCALE | 1 << BBG_BIAS | 1 << BBG_SHIFT | 1 << BBG_GATE | 1 << BBG_ABOVE |
                          1 << BBG_BELOW | 1 << BBG_OFFSET;
  if (op.shortcut != kNone || op.is_clipped()) return false;
  for (int r = 0; r < BBG_PARAMETERS; ++r) {
    if ((kOfReal >> r & 1) && op.epilogue[size_t(r)]) return false;
  }
  return true;
}

Graph plan_moves(const Graph& graph) {
  Graph planned = graph;
  join_moves(planned);
  ByteMoves(planned).run();
  return planned;
}

}  // namespace bbg
