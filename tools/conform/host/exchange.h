/** One request lent to the plug-in, and its reply in the making (mr3d/backend.h). */
#ifndef MR3D_HOST_EXCHANGE_H
#define MR3D_HOST_EXCHANGE_H

#include "mr3d/backend.h"
#include "mr3d/tensor.h"

/**
 * Lets the plug-in answer one request and makes the answering frame: type `answer`, `error` or `unsupported`, without protocol and id.
 * Ends the process (status 3) when the plug-in wrote outside its outputs. Ownership: the frame is the caller's; its tensors live in the
 * pages that mr3d_exchange_done frees.
 */
mr3d_bundle *mr3d_exchange_run(const mr3d_bundle *request, mr3d_backend_op function, void *state);
void mr3d_exchange_done(void);

/** A refusal by the host itself, in the same form. */
mr3d_bundle *mr3d_exchange_say(const char *type, const char *format, ...) MR3D_PRINTF(2, 3);

#define MR3D_HOST_BROKE_RULES 3

#endif
