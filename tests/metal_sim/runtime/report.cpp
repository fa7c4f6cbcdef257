#include "report.h"

#include <cstdio>
#include <cstring>

#include "fiber.h"

namespace sim {

Counters counters;
uintptr_t library_base, library_end;
u32 last_pc;

static constexpr size_t kMaxReports = 64, kSites = 1 << 14;
static std::vector<Report> reports;
static Site sites[kSites];
static size_t used_sites;

Report* report(const char* kind, u32 pc, u32 other_pc) {
  for (auto& r : reports)
    if (r.pc == pc && r.other_pc == other_pc && r.kind == kind) {
      r.count++;
      return nullptr;
    }
  if (reports.size() >= kMaxReports) return nullptr;
  Report r;
  r.kind = kind;
  r.pc = pc;
  r.other_pc = other_pc;
  if (current) {
    r.group = current_group();
    r.thread = current->index;
  }
  reports.push_back(r);
  return &reports.back();
}

bool has_reports() { return !reports.empty(); }

Site& site(u32 pc, int slot, bool write) {
  size_t i = (pc * 2654435761u ^ (u32)slot * 40503u ^ (u32)write) & (kSites - 1);
  while (sites[i].used && !(sites[i].pc == pc && sites[i].slot == slot && sites[i].write == write))
    i = (i + 1) & (kSites - 1);
  Site& s = sites[i];
  if (!s.used) {
    if (++used_sites == kSites - 1) {
      fprintf(stderr, "too many memory instructions\n");
      abort();
    }
    s.used = true;
    s.pc = pc;
    s.slot = slot;
    s.write = write;
  }
  return s;
}

static void print_string(const std::string& s) {
  putchar('"');
  for (char c : s) {
    if (c == '"' || c == '\\') putchar('\\');
    if ((u8)c >= 32) putchar(c);
  }
  putchar('"');
}

static void print_report(const Report& r) {
  printf("{\"kind\":");
  print_string(r.kind);
  printf(",\"message\":");
  print_string(r.message);
  printf(",\"pc\":%u,\"other_pc\":%u,\"group\":%ld,\"thread\":%ld,\"other_group\":%ld,\"other_thread\":%ld",
         r.pc, r.other_pc, r.group, r.thread, r.other_group, r.other_thread);
  printf(",\"slot\":%d,\"offset\":%ld,\"size\":%zu,\"count\":%llu}", r.slot, r.offset, r.size,
         (unsigned long long)r.count);
}

void print_results(const char* status) {
  printf("{\"status\":\"%s\",\"reports\":[", status);
  for (size_t i = 0; i < reports.size(); i++) {
    if (i) putchar(',');
    print_report(reports[i]);
  }
  printf("],\"sites\":[");
  bool first = true;
  for (const Site& s : sites) {
    if (!s.used) continue;
    if (!first) putchar(',');
    first = false;
    printf("[%u,%d,%d,%llu,%llu,%llu,%llu]", s.pc, s.slot, (int)s.write, (unsigned long long)s.count,
           (unsigned long long)s.bytes, (unsigned long long)s.low, (unsigned long long)s.high);
  }
  printf(
      "],\"counters\":{\"threadgroup_barriers\":%llu,\"simdgroup_barriers\":%llu,\"lane_exchanges\":%llu,"
      "\"matrix_multiplies\":%llu,\"atomics\":%llu,\"threadgroup_memory\":%llu}}\n",
      (unsigned long long)counters.threadgroup_barriers, (unsigned long long)counters.simdgroup_barriers,
      (unsigned long long)counters.lane_exchanges, (unsigned long long)counters.matrix_multiplies,
      (unsigned long long)counters.atomics, (unsigned long long)counters.threadgroup_memory);
  fflush(stdout);
}

}  // namespace sim
