/**
 * Requests as files, for backends that run elsewhere (docs/writing-a-backend.md, "Offline"). An exported request's `id` says all that makes it this
 * request and no other; its answer brings it back, so that an answer to something else is known for what it is.
 */
#ifndef MR3D_CONFORM_OFFLINE_H
#define MR3D_CONFORM_OFFLINE_H

#include "case.h"
#include "run.h"

/** What an id says: "case=rmsnorm/a tier=fp32 step=0 op=rmsnorm seed=7 mr3d=0.1.0 request=HEX". */
typedef struct mr3d_request_id {
  char test[200], tier[8], op[32], version[64], digest[33];
  int step;
  uint64_t seed;
} mr3d_request_id;

#define MR3D_REQUEST_ID_SIZE 512

/** The id of a step's request. `digest` is of everything that the request holds, but of its weights file only the name. */
void mr3d_request_id_of(const char *test, int step, mr3d_tier tier, uint64_t seed, const mr3d_bundle *request, mr3d_request_id *id);
void mr3d_request_id_print(const mr3d_request_id *, char text[MR3D_REQUEST_ID_SIZE]);
/** false: the text is no such id. */
bool mr3d_request_id_parse(const char *text, mr3d_request_id *);

/** "rmsnorm_a.fp32.000": NAME of NAME.req.safetensors and NAME.ans.safetensors. In order of names a case's steps are in order. */
void mr3d_request_name(const char *test, mr3d_tier tier, int step, char name[256]);

typedef struct mr3d_exported {
  int requests, weights, skipped; /**< files, weights files, cases that need the data folder */
} mr3d_exported;

/**
 * Writes the requests of a selection (tiers 0: all that a case has), their weights files and index.json into a new or empty folder. Of the options,
 * selection, seed, threads, golden_dir and data_dir count.
 * Errors: an empty or unknown selection, a folder that holds something, what cannot be written.
 */
mr3d_status mr3d_export(const mr3d_run_options *, const char *folder, mr3d_exported *, mr3d_error *);

#endif
