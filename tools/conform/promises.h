/**
 * What a backend may promise beyond its tier: values that it keeps in its accumulator's binary32 where the widest honest profile stores them in
 * the tier's type (docs/protocol.md, "Promises"). It is then judged without the room that the stored value would have needed.
 */
#ifndef MR3D_CONFORM_PROMISES_H
#define MR3D_CONFORM_PROMISES_H

#include <stdint.h>

#include "mr3d/arithmetic.h"
#include "mr3d/status.h"

typedef struct mr3d_promise {
  const char *name; /**< metadata key of the hello: "scores" */
  mr3d_rounding_point point;
} mr3d_promise;

/** NULL beyond the last. */
const mr3d_promise *mr3d_promise_at(int index);
/** Names with blanks or commas between them, as bits of rounding points. Errors: an unknown one, with those that there are. */
mr3d_status mr3d_promises_read(const char *list, uint32_t *kept, mr3d_error *);
/** The names of the promises in `kept`, joined by ", "; of all for ~0. */
char *mr3d_promises_text(uint32_t kept, char text[96]);

#endif
