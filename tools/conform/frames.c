#include "frames.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "../../ref/base/large_pages.h"

double mr3d_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- memory ---- */

enum { LINE = 64 };
#define SMALLEST_SPARE ((size_t)4 << 20)
#define LARGEST_SPARE ((size_t)1 << 30)

/* The last large block that was freed: the system clears fresh pages, which takes longer than reading a frame into them. Each begins with its size. */
static char *_Atomic spare;

static size_t room_of(const char *block) {
  size_t room;
  memcpy(&room, block, sizeof room);
  return room;
}

void *mr3d_frame_new(size_t size) {
  static_assert(sizeof(size_t) <= MR3D_FRAME_OFFSET, "the size of a block stands before the frame");
  if (size > SIZE_MAX - 2 * LINE) return NULL;
  const size_t room = (size + MR3D_FRAME_OFFSET + LINE - 1) / LINE * LINE;
  char *block = room < SMALLEST_SPARE ? NULL : atomic_exchange(&spare, NULL);
  if (block && (room_of(block) < room || room_of(block) / 2 > room)) {
    free(block);
    block = NULL;
  }
  if (!block) {
    block = aligned_alloc(LINE, room);
    if (!block) return NULL;
    memcpy(block, &room, sizeof room);
    mr3d_large_pages(block, room);
  }
  return block + MR3D_FRAME_OFFSET;
}

void mr3d_frame_free(void *bytes, size_t size) {
  (void)size;
  if (!bytes) return;
  char *block = (char *)bytes - MR3D_FRAME_OFFSET;
  const size_t room = room_of(block);
  if (room >= SMALLEST_SPARE && room <= LARGEST_SPARE) block = atomic_exchange(&spare, block);
  free(block);
}

/* ---- exchange ---- */

enum { LENGTH = 8, CHUNK = 1 << 20, PARTS_AT_ONCE = 64 };

/*
 * A large part of a channel that lends is not copied into the pipe but lent to it (vmsplice): the other side reads it where it lies, in a third of the time. What is lent must
 * stay as it is until it was read. So lending ends when between one and two times LARGEST_PIPE are left, and the rest is copied: by the time that it is
 * written, it fills the pipe alone, and nothing that was lent is left there.
 */
#define LARGEST_PIPE (1 << 20)
#define LENT_FROM ((size_t)2 * LARGEST_PIPE)

typedef struct sending {
  uint8_t length[LENGTH];
  const struct iovec *parts; /* those not sent yet */
  int n_parts;
  size_t of_part;      /* sent of the first of them */
  uint64_t size, sent; /* sent counts the length's bytes too */
} sending;

typedef struct receiving {
  uint8_t length[LENGTH];
  uint8_t *bytes;
  uint64_t size, got;
} receiving;

static bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/* What was not sent yet of part i. */
static struct iovec rest_of(const sending *s, int i) {
  const size_t skip = i == 0 ? s->of_part : 0;
  return (struct iovec){(char *)s->parts[i].iov_base + skip, s->parts[i].iov_len - skip};
}

/* Lends the pipe as much of a large part as fits. Returns what write would; -1 with errno EINVAL: this is to be copied. */
static ssize_t lend_some(int fd, bool lends, struct iovec part) {
#ifdef F_GETPIPE_SZ
  if (lends && part.iov_len >= LENT_FROM && fcntl(fd, F_GETPIPE_SZ) <= LARGEST_PIPE) {
    const ssize_t lent = vmsplice(fd, &part, 1, SPLICE_F_NONBLOCK);
    if (lent >= 0 || would_block() || errno == EPIPE) return lent;
  }
#endif
  errno = EINVAL;
  return -1;
}

/* Writes what fits. Returns false when the other side reads no more. */
static bool send_some(const mr3d_channel *channel, sending *s) {
  struct iovec now[PARTS_AT_ONCE];
  int n = 0;
  ssize_t wrote = -1;
  const size_t of_length = s->sent < LENGTH ? (size_t)(LENGTH - s->sent) : 0;
  if (of_length) now[n++] = (struct iovec){s->length + s->sent, of_length};
  else wrote = lend_some(channel->to, channel->lends, rest_of(s, 0));
  if (of_length || (wrote < 0 && errno == EINVAL)) {
    for (int i = 0; i < s->n_parts && n < PARTS_AT_ONCE && (n == 0 || !channel->lends || s->parts[i].iov_len < LENT_FROM); i++) now[n++] = rest_of(s, i);
    wrote = writev(channel->to, now, n);
  }
  if (wrote < 0) return would_block();
  s->sent += (uint64_t)wrote;
  if ((size_t)wrote < of_length) return true;
  s->of_part += (size_t)wrote - of_length;
  while (s->n_parts > 0 && s->of_part >= s->parts->iov_len) s->of_part -= s->parts->iov_len, s->parts++, s->n_parts--;
  return true;
}

static uint64_t length_of(const uint8_t bytes[LENGTH]) {
  uint64_t length = 0;
  for (int i = LENGTH - 1; i >= 0; i--) length = length << 8 | bytes[i];
  return length;
}

/* Bytes that were printed where a frame belongs are recognised best by eye. */
static void printable(const uint8_t *bytes, char text[LENGTH + 1]) {
  for (int i = 0; i < LENGTH; i++) text[i] = isprint(bytes[i]) ? (char)bytes[i] : '.';
  text[LENGTH] = 0;
}

/* Reads what is there. MR3D_FRAME_DONE means "go on". */
static mr3d_frame_end receive_some(const mr3d_channel *channel, receiving *r, mr3d_error *error) {
  uint8_t *target = r->got < LENGTH ? r->length + r->got : r->bytes + (r->got - LENGTH);
  uint64_t missing = r->got < LENGTH ? LENGTH - r->got : r->size + LENGTH - r->got;
  ssize_t n = read(channel->from, target, (size_t)(missing < CHUNK ? missing : CHUNK));
  if (n < 0 && would_block()) return MR3D_FRAME_DONE;
  if (n < 0) {
    mr3d_fail(error, MR3D_IO, "could not be read: %s", strerror(errno));
    return MR3D_FRAME_FAILED;
  }
  if (n == 0) {
    if (r->got == 0) mr3d_fail(error, MR3D_FORMAT, "closed its output before any byte of a frame");
    else if (r->got < LENGTH) mr3d_fail(error, MR3D_FORMAT, "closed its output after %d of the 8 bytes of a frame's length", (int)r->got);
    else
      mr3d_fail(error, MR3D_FORMAT, "closed its output after %llu of %llu bytes of a frame", (unsigned long long)(r->got - LENGTH),
                (unsigned long long)r->size);
    return MR3D_FRAME_CLOSED;
  }
  r->got += (uint64_t)n;
  if (r->got == LENGTH) {
    r->size = length_of(r->length);
    if (r->size > channel->cap) {
      char text[LENGTH + 1];
      printable(r->length, text);
      mr3d_fail(error, MR3D_FORMAT,
                "announced a frame of %llu bytes, at most %llu are accepted; its first 8 bytes are \"%s\": if that reads like text, "
                "something prints to stdout, which carries frames only",
                (unsigned long long)r->size, (unsigned long long)channel->cap, text);
      return MR3D_FRAME_GARBAGE;
    }
    r->bytes = (channel->allocate ? channel->allocate : mr3d_frame_new)((size_t)r->size);
    if (!r->bytes) {
      mr3d_fail(error, MR3D_IO, "announced a frame of %llu bytes, for which there is no memory", (unsigned long long)r->size);
      return MR3D_FRAME_FAILED;
    }
  }
  return MR3D_FRAME_DONE;
}

static bool all_sent(const sending *s) { return !s->parts || s->sent == s->size + LENGTH; }
static bool all_received(const receiving *r) { return r->got >= LENGTH && r->got == r->size + LENGTH; }

static bool nothing_was_read(const mr3d_channel *channel, const sending *s) {
  int unread = 0;
  return s->sent == 0 || (ioctl(channel->to, FIONREAD, &unread) == 0 && (uint64_t)unread == s->sent);
}

static mr3d_frame_end run(const mr3d_channel *channel, sending *s, receiving *r, double deadline, mr3d_error *error) {
  bool deaf = false; /* the other side reads no more, but may still have answered */
  while (!(deaf || all_sent(s)) || (r && !all_received(r))) {
    struct pollfd wait[3] = {
      {.fd = !deaf && s->parts ? channel->to : -1, .events = all_sent(s) ? 0 : POLLOUT}, /* when all is sent, only whether there is still a reader */
      {.fd = r && !all_received(r) ? channel->from : -1, .events = POLLIN},
      {.fd = channel->process, .events = POLLIN},
    };
    int patience = -1;
    if (deadline > 0) {
      double left = deadline - mr3d_now();
      if (left <= 0) {
        if (!all_sent(s) && !deaf)
          mr3d_fail(error, MR3D_FORMAT, "had read only %llu of the %llu bytes of the request", (unsigned long long)s->sent,
                    (unsigned long long)(s->size + LENGTH));
        else
          mr3d_fail(error, MR3D_FORMAT, "had sent %llu bytes of its answer", r ? (unsigned long long)r->got : 0);
        return MR3D_FRAME_TIMEOUT;
      }
      patience = left > 1e6 ? 1000000000 : (int)ceil(1e3 * left);
    }
    int ready = poll(wait, 3, patience);
    if (ready < 0 && errno != EINTR) {
      mr3d_fail(error, MR3D_IO, "could not be waited for: %s", strerror(errno));
      return MR3D_FRAME_FAILED;
    }
    if (ready <= 0) continue;
    if (wait[0].revents && (all_sent(s) || !send_some(channel, s))) deaf = true;
    if (deaf && nothing_was_read(channel, s) && r && r->got == 0 && poll(&wait[1], 1, 0) == 0) {
      mr3d_fail(error, MR3D_FORMAT, "had closed its input before this request");
      return MR3D_FRAME_CLOSED;
    }
    if (wait[2].revents) {
      deaf = true;
      /* What it wrote last may have come after this poll looked. If nothing did, the pipe's end may never come: a process it left behind
       * may hold it open. */
      bool more = wait[1].fd >= 0 && poll(&wait[1], 1, 0) > 0;
      if (!more && r && !all_received(r)) {
        mr3d_fail(error, MR3D_FORMAT, "ended after %llu bytes of its answer", (unsigned long long)r->got);
        return MR3D_FRAME_CLOSED;
      }
    }
    if (wait[1].revents) {
      mr3d_frame_end end = receive_some(channel, r, error);
      if (end != MR3D_FRAME_DONE) return end;
    }
  }
  if (deaf && !r) {
    mr3d_fail(error, MR3D_FORMAT, "closed its input");
    return MR3D_FRAME_CLOSED;
  }
  return MR3D_FRAME_DONE;
}

mr3d_frame_end mr3d_frame_exchange(const mr3d_channel *channel, const void *bytes, size_t size, mr3d_frame *frame, double deadline,
                                   mr3d_error *error) {
  const struct iovec whole = {(void *)(uintptr_t)bytes, size};
  return mr3d_frame_exchange_parts(channel, bytes ? &whole : NULL, size > 0, frame, deadline, error);
}

mr3d_frame_end mr3d_frame_exchange_parts(const mr3d_channel *channel, const struct iovec *parts, int count, mr3d_frame *frame, double deadline,
                                         mr3d_error *error) {
  sending s = {.parts = parts, .n_parts = count};
  for (int i = 0; i < count; i++) s.size += parts[i].iov_len;
  for (int i = 0; i < LENGTH; i++) s.length[i] = (uint8_t)(s.size >> (8 * i));
  receiving r = {0};

  /* A write to a process that has gone must be an error of this call, not the end of this program. */
  sigset_t broken_pipe, before, pending;
  sigemptyset(&broken_pipe);
  sigaddset(&broken_pipe, SIGPIPE);
  sigpending(&pending);
  pthread_sigmask(SIG_BLOCK, &broken_pipe, &before);
  mr3d_frame_end end = run(channel, &s, frame ? &r : NULL, deadline, error);
  if (!sigismember(&pending, SIGPIPE))
    while (sigtimedwait(&broken_pipe, NULL, &(struct timespec){0}) < 0 && errno == EINTR) {}
  pthread_sigmask(SIG_SETMASK, &before, NULL);

  if (frame) {
    *frame = (mr3d_frame){.size = (size_t)r.size, .received = r.got, .sent = s.sent, .bytes = r.bytes};
    if (end != MR3D_FRAME_DONE) {
      if (!channel->allocate) mr3d_frame_free(r.bytes, (size_t)r.size);
      frame->bytes = NULL;
    }
  }
  return end;
}
