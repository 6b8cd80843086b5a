/**
 * Status and message: how every function of the library reports failure.
 *
 * Functions return a status and, when it is not MR3D_OK, have written one line into the caller's mr3d_error; their
 * out-parameters are then untouched.
 */
#ifndef MR3D_STATUS_H
#define MR3D_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum mr3d_status {
  MR3D_OK = 0,
  MR3D_INVALID,     /**< the request, configuration or argument must be refused */
  MR3D_UNSUPPORTED, /**< well-formed, but not offered here */
  MR3D_FORMAT,      /**< a file or frame is malformed */
  MR3D_IO,          /**< the operating system refused: path and reason in the message */
} mr3d_status;

/** One message. Owned by the caller, usually on the stack; zero-initialise it. */
typedef struct mr3d_error {
  mr3d_status status;
  char message[1024];
} mr3d_error;

#if defined(__GNUC__)
#define MR3D_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define MR3D_PRINTF(format_index, first)
#endif

/** Writes the message (truncated to fit; `error` may be NULL) and returns `status`, for `return mr3d_fail(...)`. */
mr3d_status mr3d_fail(mr3d_error *error, mr3d_status status, const char *format, ...) MR3D_PRINTF(3, 4);

/**
 * Puts "prefix: " in front of the message already there and returns its status; says where an inner error happened.
 * Without an `error` the kind is lost with the message: MR3D_INVALID.
 */
mr3d_status mr3d_fail_in(mr3d_error *error, const char *prefix, ...) MR3D_PRINTF(2, 3);

/**
 * Zeroed memory for `count` elements of `size` bytes; never NULL, also for count 0.
 *
 * Out of memory is not an error that a caller could mend: the process says how much it asked for and ends with status 1
 * ("could not run"). Sizes come from data that is already in memory, so input cannot cause it by lying about sizes.
 */
void *mr3d_allocate(long long count, unsigned long size);

/** The same, holding anything: for what is written whole before it is read. Zeros for the layers' buffers were 3 % of a prefill. */
void *mr3d_allocate_unset(long long count, unsigned long size);

#ifdef __cplusplus
}
#endif
#endif
