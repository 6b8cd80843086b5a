/* Frames over pipes: every size, every way to end, and never a deadlock. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "frames.h"

typedef struct ends {
  int in[2], out[2]; /* in: what we write to and the other side reads */
} ends;

static ends open_ends(void) {
  ends e;
  assert_int_equal(pipe(e.in), 0);
  assert_int_equal(pipe(e.out), 0);
  fcntl(e.in[1], F_SETFL, O_NONBLOCK);
  fcntl(e.out[0], F_SETFL, O_NONBLOCK);
  return e;
}

static void close_ends(ends *e) {
  close(e->in[0]), close(e->in[1]), close(e->out[0]), close(e->out[1]);
}

static mr3d_channel channel_of(const ends *e, uint64_t cap) {
  return (mr3d_channel){.to = e->in[1], .from = e->out[0], .process = -1, .cap = cap};
}

/* What the other side wrote, then its end is closed; then one exchange that only receives. */
static mr3d_frame_end receive(const void *written, size_t size, uint64_t cap, mr3d_frame *frame, mr3d_error *error) {
  ends e = open_ends();
  assert_int_equal(write(e.out[1], written, size), size);
  close(e.out[1]);
  mr3d_channel channel = channel_of(&e, cap);
  mr3d_frame_end end = mr3d_frame_exchange(&channel, NULL, 0, frame, mr3d_now() + 5, error);
  e.out[1] = -1;
  close_ends(&e);
  return end;
}

static void a_frame_arrives_as_it_was_sent(void **state) {
  (void)state;
  mr3d_frame frame;
  mr3d_error error = {0};
  assert_int_equal(receive("\5\0\0\0\0\0\0\0hello", 13, 100, &frame, &error), MR3D_FRAME_DONE);
  assert_int_equal(frame.size, 5);
  assert_int_equal(frame.received, 13);
  assert_memory_equal(frame.bytes, "hello", 5);
  mr3d_frame_free(frame.bytes, frame.size);
}

static void a_frame_in_parts_arrives_as_one(void **state) {
  (void)state;
  enum { PARTS = 200 }; /* more than one call takes; the third of three is empty */
  static char part[4099];
  struct iovec parts[PARTS];
  size_t size = 0;
  for (int i = 0; i < (int)sizeof part; i++) part[i] = (char)(i * 7);
  for (int i = 0; i < PARTS; i++) size += (parts[i] = (struct iovec){part, i % 3 == 2 ? 0 : sizeof part - (size_t)i}).iov_len;
  ends e = open_ends();
  pid_t pid = fork();
  if (pid == 0) { /* reads slowly, in pieces of all sizes, and sends it all back */
    for (size_t done = 0; done < size + 8;) {
      char bytes[5000];
      ssize_t n = read(e.in[0], bytes, 1 + done % sizeof bytes);
      if (n <= 0 || write(e.out[1], bytes, (size_t)n) != n) _exit(1);
      done += (size_t)n;
    }
    _exit(0);
  }
  mr3d_channel channel = channel_of(&e, size);
  mr3d_frame frame;
  mr3d_error error = {0};
  assert_int_equal(mr3d_frame_exchange_parts(&channel, parts, PARTS, &frame, mr3d_now() + 20, &error), MR3D_FRAME_DONE);
  assert_int_equal(frame.size, size);
  const char *at = frame.bytes;
  for (int i = 0; i < PARTS; at += parts[i++].iov_len) assert_memory_equal(at, part, parts[i].iov_len);
  mr3d_frame_free(frame.bytes, frame.size);
  waitpid(pid, NULL, 0);
  close_ends(&e);
}

static void large_frames_get_memory_of_their_size(void **state) {
  (void)state;
  const size_t sizes[] = {5 << 20, 3 << 20, 0, 5 << 20, 64 << 20, 6 << 20, 40 << 20, 4 << 20};
  void *last = NULL;
  for (int i = 0; i < 8; i++) { /* one is held while the next is asked for */
    char *bytes = mr3d_frame_new(sizes[i]);
    assert_non_null(bytes);
    assert_int_equal((uintptr_t)bytes % 64, MR3D_FRAME_OFFSET);
    memset(bytes, i, sizes[i]);
    mr3d_frame_free(last, 0);
    last = bytes;
  }
  mr3d_frame_free(last, 0);
  assert_null(mr3d_frame_new(SIZE_MAX));
}

static void an_empty_frame_is_a_frame(void **state) {
  (void)state;
  mr3d_frame frame;
  mr3d_error error = {0};
  assert_int_equal(receive("\0\0\0\0\0\0\0\0", 8, 100, &frame, &error), MR3D_FRAME_DONE);
  assert_int_equal(frame.size, 0);
  assert_non_null(frame.bytes);
  mr3d_frame_free(frame.bytes, frame.size);
}

static void a_truncated_frame_says_how_much_came(void **state) {
  (void)state;
  mr3d_frame frame;
  mr3d_error error = {0};
  assert_int_equal(receive("", 0, 100, &frame, &error), MR3D_FRAME_CLOSED);
  assert_string_equal(error.message, "closed its output before any byte of a frame");
  assert_int_equal(receive("\5\0\0", 3, 100, &frame, &error), MR3D_FRAME_CLOSED);
  assert_string_equal(error.message, "closed its output after 3 of the 8 bytes of a frame's length");
  assert_int_equal(receive("\5\0\0\0\0\0\0\0he", 10, 100, &frame, &error), MR3D_FRAME_CLOSED);
  assert_string_equal(error.message, "closed its output after 2 of 5 bytes of a frame");
  assert_null(frame.bytes);
}

static void a_giant_frame_is_refused_before_memory_is_taken(void **state) {
  (void)state;
  mr3d_frame frame;
  mr3d_error error = {0};
  assert_int_equal(receive("\145\0\0\0\0\0\0\0x", 9, 100, &frame, &error), MR3D_FRAME_GARBAGE);
  assert_non_null(strstr(error.message, "frame of 101 bytes, at most 100"));
  assert_int_equal(receive("\377\377\377\377\377\377\377\377x", 9, (uint64_t)4 << 30, &frame, &error), MR3D_FRAME_GARBAGE);
  assert_non_null(strstr(error.message, "18446744073709551615"));
}

static void text_in_place_of_a_frame_is_shown(void **state) {
  (void)state;
  mr3d_frame frame;
  mr3d_error error = {0};
  assert_int_equal(receive("Loading model\n", 14, (uint64_t)4 << 30, &frame, &error), MR3D_FRAME_GARBAGE);
  assert_non_null(strstr(error.message, "\"Loading \""));
  assert_non_null(strstr(error.message, "prints to stdout"));
}

static void a_deadline_ends_the_wait(void **state) {
  (void)state;
  ends e = open_ends();
  mr3d_channel channel = channel_of(&e, 100);
  mr3d_frame frame;
  mr3d_error error = {0};
  assert_int_equal(write(e.out[1], "\5\0\0\0\0\0\0\0he", 10), 10);
  double start = mr3d_now();
  assert_int_equal(mr3d_frame_exchange(&channel, "x", 1, &frame, start + 0.2, &error), MR3D_FRAME_TIMEOUT);
  double took = mr3d_now() - start;
  assert_true(took >= 0.2 && took < 2);
  assert_string_equal(error.message, "had sent 10 bytes of its answer");
  close_ends(&e);
}

static void a_reader_that_does_not_read_runs_into_the_deadline(void **state) {
  (void)state;
  ends e = open_ends();
  mr3d_channel channel = channel_of(&e, 100);
  mr3d_error error = {0};
  static char big[1 << 21];
  mr3d_frame frame;
  assert_int_equal(mr3d_frame_exchange(&channel, big, sizeof big, &frame, mr3d_now() + 0.2, &error), MR3D_FRAME_TIMEOUT);
  assert_non_null(strstr(error.message, "of the 2097160 bytes of the request"));
  close_ends(&e);
}

static void what_is_sent_may_change_once_it_is_sent(void **state) {
  (void)state;
  enum { SIZE = (8 << 20) - 8, IN_PIPE = 1 << 20 };
  char *big = malloc(SIZE);
  const int capacities[] = {1 << 16, IN_PIPE, 2 * IN_PIPE}; /* the last one only where this user may have it */
  for (int i = 0; i < 3; i++) {
    ends e = open_ends();
    fcntl(e.in[1], F_SETPIPE_SZ, capacities[i]);
    pid_t pid = fork();
    if (pid == 0) { /* reads what does not fit into the pipe, and the rest late */
      static char bytes[1 << 16];
      bool as_sent = true;
      for (size_t done = 0, late = SIZE + 8 - (size_t)fcntl(e.in[0], F_GETPIPE_SZ); done < SIZE + 8;) {
        if (done >= late) usleep(20000);
        ssize_t n = read(e.in[0], bytes, sizeof bytes);
        for (ssize_t k = 0; k < n; k++) as_sent &= done + (size_t)k < 8 || bytes[k] == 'a';
        if (n <= 0) _exit(2);
        done += (size_t)n;
      }
      _exit(as_sent ? 0 : 1);
    }
    mr3d_channel channel = channel_of(&e, 100);
    mr3d_error error = {0};
    channel.lends = true;
    memset(big, 'a', SIZE);
    assert_int_equal(mr3d_frame_exchange(&channel, big, SIZE, NULL, mr3d_now() + 20, &error), MR3D_FRAME_DONE);
    memset(big, 'b', SIZE);
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    close_ends(&e);
  }
  free(big);
}

static void a_reader_cannot_keep_sight_of_memory_that_is_not_lent(void **state) {
  (void)state;
  enum { SIZE = 8 << 20 };
  char *big = malloc(SIZE), kept[4096];
  for (int lends = 0; lends < 2; lends++) {
    ends e = open_ends();
    int copy[2];
    assert_int_equal(pipe(copy), 0);
    mr3d_channel channel = channel_of(&e, 100);
    mr3d_error error = {0};
    channel.lends = lends;
    memset(big, 'a', SIZE);
    /* nobody reads: what fits into the pipe is there when the deadline ends it, and the reader keeps it before it looks */
    assert_int_equal(mr3d_frame_exchange(&channel, big, SIZE, NULL, mr3d_now() + 0.1, &error), MR3D_FRAME_TIMEOUT);
    assert_true(tee(e.in[0], copy[1], 16384, 0) > 8192);
    memset(big, 'b', SIZE);
    assert_int_equal(read(copy[0], kept, 8), 8);
    assert_int_equal(read(copy[0], kept, sizeof kept), sizeof kept);
    assert_int_equal(kept[2048], lends ? 'b' : 'a');
    close(copy[0]), close(copy[1]);
    close_ends(&e);
  }
  free(big);
}

static void a_reader_that_has_gone_is_an_error_and_no_signal(void **state) {
  (void)state;
  ends e = open_ends();
  mr3d_channel channel = channel_of(&e, 100);
  mr3d_error error = {0};
  close(e.in[0]);
  assert_int_equal(mr3d_frame_exchange(&channel, "x", 1, NULL, mr3d_now() + 5, &error), MR3D_FRAME_CLOSED);
  assert_string_equal(error.message, "closed its input");
  sigset_t pending;
  sigpending(&pending);
  assert_false(sigismember(&pending, SIGPIPE));
  /* Its answer, if it left one, still counts. */
  mr3d_frame frame;
  assert_int_equal(write(e.out[1], "\1\0\0\0\0\0\0\0y", 9), 9);
  assert_int_equal(mr3d_frame_exchange(&channel, "x", 1, &frame, mr3d_now() + 5, &error), MR3D_FRAME_DONE);
  mr3d_frame_free(frame.bytes, frame.size);
  e.in[0] = -1;
  close_ends(&e);
}

static void do_nothing(int signal_number) { (void)signal_number; }

static void signals_do_not_disturb(void **state) {
  (void)state;
  struct sigaction action = {.sa_handler = do_nothing}, before; /* without SA_RESTART: every call may end with EINTR */
  sigaction(SIGALRM, &action, &before);
  ends e = open_ends();
  pid_t pid = fork();
  if (pid == 0) { /* sends a frame byte by byte, and the alarms to its parent meanwhile */
    const char *bytes = "\30\0\0\0\0\0\0\0abcdefghijklmnopqrstuvwx";
    for (int i = 0; i < 32; i++) {
      kill(getppid(), SIGALRM);
      usleep(2000);
      if (write(e.out[1], bytes + i, 1) != 1) _exit(1);
    }
    _exit(0);
  }
  mr3d_channel channel = channel_of(&e, 100);
  mr3d_frame frame;
  mr3d_error error = {0};
  assert_int_equal(mr3d_frame_exchange(&channel, "x", 1, &frame, mr3d_now() + 10, &error), MR3D_FRAME_DONE);
  assert_memory_equal(frame.bytes, "abcdefghijklmnopqrstuvwx", 24);
  mr3d_frame_free(frame.bytes, frame.size);
  waitpid(pid, NULL, 0);
  close_ends(&e);
  sigaction(SIGALRM, &before, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(a_frame_arrives_as_it_was_sent),
    cmocka_unit_test(a_frame_in_parts_arrives_as_one),
    cmocka_unit_test(large_frames_get_memory_of_their_size),
    cmocka_unit_test(an_empty_frame_is_a_frame),
    cmocka_unit_test(a_truncated_frame_says_how_much_came),
    cmocka_unit_test(a_giant_frame_is_refused_before_memory_is_taken),
    cmocka_unit_test(text_in_place_of_a_frame_is_shown),
    cmocka_unit_test(a_deadline_ends_the_wait),
    cmocka_unit_test(a_reader_that_does_not_read_runs_into_the_deadline),
    cmocka_unit_test(what_is_sent_may_change_once_it_is_sent),
    cmocka_unit_test(a_reader_cannot_keep_sight_of_memory_that_is_not_lent),
    cmocka_unit_test(a_reader_that_has_gone_is_an_error_and_no_signal),
    cmocka_unit_test(signals_do_not_disturb),
  };
  return cmocka_run_group_tests_name("frames", tests, NULL, NULL);
}
