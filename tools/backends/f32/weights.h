/* Weights files, shared by the sessions that name the same path. */
#ifndef F32_WEIGHTS_H
#define F32_WEIGHTS_H

#include "f32.h"

typedef struct weights weights;

/* Refuses what is no safetensors file. Each success needs one close_weights. */
weights *open_weights(call *, weights **all, const char *path);
void close_weights(weights **all, weights *);
bool has_weight(const weights *, const char *name);
int weight_rank(const weights *, const char *name); /* -1 where absent */
int64_t weight_rows(const weights *, const char *name); /* its first size, 0 where absent */
/* The tensor in float; letters of `shape` are sizes of the call. Refuses a missing one, another shape, a type that is no floating one. */
const float *weight(call *, weights *, const char *name, const char *shape);

#endif
