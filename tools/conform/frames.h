/**
 * Frames: an unsigned 64-bit little-endian byte count, then that many bytes (docs/protocol.md, "Frames").
 *
 * One call sends a frame and receives one at the same time, so that neither side can block the other, whatever the
 * sizes and whoever starts to answer before it has read everything.
 */
#ifndef MR3D_CONFORM_FRAMES_H
#define MR3D_CONFORM_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "mr3d/status.h"

typedef struct mr3d_channel {
  int to, from;    /**< descriptors; `to` non-blocking where the other side may be slow to read */
  int process;     /**< a pidfd that tells when the other side has ended, or -1 */
  uint64_t cap;    /**< largest frame accepted */
  bool lends;      /**< what is sent need not be copied: the other side may keep sight of the pages (tee), and so of whatever they hold later. For the host alone */
  void *(*allocate)(size_t size); /**< memory for the frame received, best MR3D_FRAME_OFFSET behind a cache line; NULL: mr3d_frame_new */
} mr3d_channel;

typedef enum mr3d_frame_end {
  MR3D_FRAME_DONE,
  MR3D_FRAME_CLOSED,   /**< the other side closed or ended; `received` says how much of a frame had come */
  MR3D_FRAME_TIMEOUT,
  MR3D_FRAME_GARBAGE,  /**< a length beyond the cap */
  MR3D_FRAME_FAILED,   /**< the operating system refused, or no memory */
} mr3d_frame_end;

typedef struct mr3d_frame {
  void *bytes;         /**< the caller's after MR3D_FRAME_DONE (mr3d_frame_free, or as `allocate` has it), else NULL */
  size_t size;
  uint64_t received;   /**< bytes that came, the 8 of the length included */
  uint64_t sent;       /**< bytes of the other frame that were handed over, its length's included; not all of them need have been read */
} mr3d_frame;

/**
 * A frame of gigabytes comes through the pipe in pages that begin at multiples of 4096 of the stream, its length included. Where these are copied to
 * cache lines, and not across them, reading takes half the time.
 */
#define MR3D_FRAME_OFFSET 8

/** Memory for a frame; NULL where there is none. */
void *mr3d_frame_new(size_t size);
/** For mr3d_bundle_keep too, which is why it takes the size. NULL is fine. */
void mr3d_frame_free(void *bytes, size_t size);

/** Seconds on a clock that only goes forward. */
double mr3d_now(void);

/**
 * Sends `size` bytes as one frame (bytes NULL: sends nothing) and receives one (frame NULL: receives nothing), until both are done or
 * `deadline` (of mr3d_now; 0: none) passes. SIGPIPE is held off while it runs. On any other end than MR3D_FRAME_DONE the error says
 * what happened, as the tail of a sentence: "closed its output after 12 of 4096 bytes of a frame".
 */
mr3d_frame_end mr3d_frame_exchange(const mr3d_channel *, const void *bytes, size_t size, mr3d_frame *frame, double deadline, mr3d_error *);

/** The same; the frame that is sent lies in parts. */
mr3d_frame_end mr3d_frame_exchange_parts(const mr3d_channel *, const struct iovec *parts, int count, mr3d_frame *frame, double deadline, mr3d_error *);

#endif
