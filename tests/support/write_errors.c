/* A disk that is full at a chosen moment, for one folder, or a process that is killed then: preload it, and arm it by
 * ctypes (write_errors.py).
 *
 * Every call that writes, creates, syncs or renames something below the folder is counted. Number `at` fails with
 * ENOSPC, or is never made. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static size_t length;
static long seen, fails;
static int kills;

void arm(const char* below, long at, int kill) {
  strncpy(folder, below, sizeof folder - 1);
  length = strlen(folder);
  seen = 0;
  fails = at;
  kills = kill;
}

long count(void) { return seen; }

static int below(const char* path) { return length && path && !strncmp(path, folder, length); }

static int open_below(int descriptor) {
  char link[64], path[PATH_MAX];
  if (!length) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return below(path);
}

static int full(int counts) {
  if (!counts || __sync_add_and_fetch(&seen, 1) != fails) return 0;
  if (kills) raise(SIGKILL);
  errno = ENOSPC;
  return 1;
}

#define NEXT(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t write(int d, const void* data, size_t size) {
  if (full(open_below(d))) return -1;
  return NEXT(ssize_t, "write", int, const void*, size_t)(d, data, size);
}
ssize_t writev(int d, const struct iovec* parts, int number) {
  if (full(open_below(d))) return -1;
  return NEXT(ssize_t, "writev", int, const struct iovec*, int)(d, parts, number);
}
ssize_t pwrite64(int d, const void* data, size_t size, off64_t at) {
  if (full(open_below(d))) return -1;
  return NEXT(ssize_t, "pwrite64", int, const void*, size_t, off64_t)(d, data, size, at);
}
int fsync(int d) {
  if (full(open_below(d))) return -1;
  return NEXT(int, "fsync", int)(d);
}
int ftruncate64(int d, off64_t size) {
  if (full(open_below(d))) return -1;
  return NEXT(int, "ftruncate64", int, off64_t)(d, size);
}
int mkdir(const char* path, mode_t mode) {
  if (full(below(path))) return -1;
  return NEXT(int, "mkdir", const char*, mode_t)(path, mode);
}
int rename(const char* from, const char* to) {
  if (full(below(from) || below(to))) return -1;
  return NEXT(int, "rename", const char*, const char*)(from, to);
}
int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  if (full(below(path) && flags & O_CREAT)) return -1;
  return NEXT(int, "open64", const char*, int, mode_t)(path, flags, mode);
}
