/**
 * A backend: whatever answers requests. Six kinds behind one door (docs/writing-a-backend.md):
 *   builtin:reference   the reference itself          mutant:SLUG/NAME  the reference with one mistake
 *   builtin:emulated    the reference rounding as the tier's hardware does
 *   exec:COMMAND        a process speaking frames     lib:PATH.so       a C plug-in, in the suite's host process
 *   dir:FOLDER          files that someone answered elsewhere
 */
#ifndef MR3D_CONFORM_BACKEND_H
#define MR3D_CONFORM_BACKEND_H

#include <stdbool.h>

#include "mr3d/server.h"
#include "mr3d/tensor.h"

typedef struct mr3d_backend mr3d_backend;

typedef struct mr3d_backend_options {
  uint64_t frame_cap;            /**< largest frame, bytes; 0: 4 GiB */
  double hello_timeout;          /**< seconds that exec: and lib: have to start; 0: 120 */
  int threads;                   /**< 0: all, or as the backend likes */
  mr3d_weights_cache *weights;   /**< for builtin: and mutant:, shared with the judge; may be NULL */
  bool no_isolation;             /**< exec: and lib: keep the caller's rights and limits (docs/writing-a-backend.md, "Isolation") */
  uint64_t memory;               /**< for lib:, bytes; 0: three quarters of the machine's */
  const char *hidden;            /**< the golden set's folder, which lib: must not see, nor exec: its set/; may be NULL; borrowed until mr3d_backend_close */
  const char *const *secrets;    /**< files that neither must read, keys; NULL at the end; may be NULL; borrowed by mr3d_backend_open */
  bool forgets;                  /**< exec:, isolated: what it writes to files is gone when it ends, so that one that is begun anew remembers nothing */
  const char *const *kept;       /**< files and folders that exec: must not write, since the suite reads them; NULL at the end; may be NULL; borrowed by mr3d_backend_open */
} mr3d_backend_options;

/** What a backend said of itself in its hello. Strings and arrays belong to the backend. */
typedef struct mr3d_backend_info {
  const char *spec, *name, *version;
  int n_ops, n_tiers;
  const char *const *ops;
  const mr3d_tier *tiers;
  uint32_t kept; /**< what it promises (promises.h) */
  bool traces;   /**< it answers metadata `trace` of a prefill or decode (docs/protocol.md, "Traces") */
  /** What it is kept from, and what could not be had and why: each a list joined by "; ", "" where there is nothing to say. */
  const char *protections, *missing_protections;
} mr3d_backend_info;

typedef enum mr3d_reply_kind {
  MR3D_REPLY_ANSWER,
  MR3D_REPLY_ERROR,       /**< the backend refused the request */
  MR3D_REPLY_UNSUPPORTED,
  MR3D_REPLY_CRASH,       /**< ended by a signal or exited before it answered */
  MR3D_REPLY_TIMEOUT,
  MR3D_REPLY_MALFORMED,   /**< a frame that breaks the protocol: truncated, garbage, wrong id, wrong type ... */
} mr3d_reply_kind;

typedef struct mr3d_reply {
  mr3d_reply_kind kind;
  mr3d_bundle *answer;    /**< for MR3D_REPLY_ANSWER, else NULL */
  char message[1024];     /**< what the backend, or the suite, says of it: "killed by signal 11 (Segmentation fault)" */
  bool before;            /**< it happened before any of this request was read: the doing of what was asked before */
  char *log;              /**< what it wrote to stderr during this request (bounded, see MR3D_LOG_CAP); may be "" */
  double seconds;
} mr3d_reply;

#define MR3D_LOG_CAP 65536

/**
 * Starts the backend and shakes hands.
 * Errors: unknown kind, command not found, no or malformed hello, another protocol number, unknown op or tier names: each says what
 * was found and what to do.
 */
mr3d_status mr3d_backend_open(const char *spec, const mr3d_backend_options *, mr3d_backend **, mr3d_error *);
/** Lets it begin anew: ends its process, if it has one, with a bye; the next ask starts another. Nothing of it is left that a fork would share.
 * It is then given `threads` as in the options, if it is given any. */
void mr3d_backend_rest(mr3d_backend *, int threads);
/** Says bye, waits a moment, ends the process (and its group) if it must, frees. NULL is fine. */
void mr3d_backend_close(mr3d_backend **);

const mr3d_backend_info *mr3d_backend_info_of(const mr3d_backend *);
/** Whether the op is among those that it named. */
bool mr3d_backend_offers(const mr3d_backend_info *, const char *op);

/** Says of which step of which case the next request is, which only dir: needs to know. */
void mr3d_backend_about(mr3d_backend *, const char *test, int step, mr3d_tier, uint64_t seed);

/** What is to be said at the end of a run beside its results: answers that nobody asked for. The caller's; NULL: nothing. */
char *mr3d_backend_remarks(mr3d_backend *);

/**
 * Asks one request (metadata `op`, `tier`, `config` ... set; the backend layer adds `protocol`, `type`, `id`).
 * Never fails: whatever happens is a reply. After a crash, timeout or malformed frame the process is ended, and started again at
 * the next ask; `restarted` in the info is not needed: sessions are the caller's to replay (a case is asked from its first step).
 * timeout in seconds, 0: none. Ownership: the reply's memory is the caller's; mr3d_reply_clear frees it.
 */
void mr3d_backend_ask(mr3d_backend *, const mr3d_bundle *request, double timeout, mr3d_reply *reply);
void mr3d_reply_clear(mr3d_reply *);
/**
 * Whether the backend broke its promise after its last answer: it sent more, or ended. Asked before anything else is, so that no other request is
 * blamed; `message` then says what happened, and the next ask starts it again. What comes later than this call shows at the next ask.
 */
bool mr3d_backend_went_astray(mr3d_backend *, char message[256]);

#endif
