// Calls of the engine beside the interpreter: without its lock, with its signals, and up to its end.
//
// At its end Python runs what is registered with atexit, then takes the lock for good. A thread that still wants it
// back is ended in the midst of C++ (before Python 3.14), which ends the process with SIGABRT. Only daemon threads can
// be in the engine then. So they are stopped, and wait outside of the interpreter until the process is gone.
#pragma once

#include <nanobind/eval.h>
#include <nanobind/nanobind.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "platform.h"

namespace bbg {

class Interpreter {
 public:
  // Once, when the module is imported.
  static void watch() {
    nanobind::module_::import_("atexit").attr("register")(nanobind::cpp_function(end));
    nothing_ = nanobind::eval("lambda: None").release().ptr();  // for as long as the process lives
  }

  // Runs a call of the C API without the lock of the interpreter.
  template <class Call>
  static const char* unlocked(Call call) {
    enter();
    const char* error;
    {
      const nanobind::gil_scoped_release released;
      error = call();
      if (is_over()) wait_for_the_end();
    }
    --calls_;  // with the lock: until then the end waits for this thread
    return error;
  }

  // Whether a call is to stop: since a signal's handler raised an exception, which the main thread alone runs, since
  // another thread raised one in this (PyThreadState_SetAsyncExc), or since Python ends. Python code looks for both.
  static int stopped(void*) {
    if (is_over()) return 1;
    const nanobind::gil_scoped_acquire held;
    PyObject* const result = PyObject_CallNoArgs(nothing_);
    Py_XDECREF(result);
    return result == nullptr;
  }

 private:
  // With the lock, so that no two threads change the process. A forked child has none of its parent's calls.
  static void enter() {
    if (process_ != process_id()) process_ = process_id(), calls_ = 0;
    ++calls_;
  }

  [[noreturn]] static void wait_for_the_end() {
    --calls_;
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
  }

  // Whether Python ends, and not by this thread: whoever ends it may still call engines.
  static bool is_over() { return ending_ && ender_ != std::this_thread::get_id(); }

  static void end() {
    ender_ = std::this_thread::get_id();
    ending_ = true;
    if (process_ != process_id()) return;
    const nanobind::gil_scoped_release released;
    while (calls_ > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  static inline std::atomic<ProcessId> process_{0};
  static inline std::atomic<int> calls_{0};
  static inline std::atomic<bool> ending_{false};
  static inline std::atomic<std::thread::id> ender_{};
  static inline PyObject* nothing_ = nullptr;
};

}  // namespace bbg
