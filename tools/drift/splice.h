/** How a prompt and its points were spliced: rebuilt from the rows that the model was given, beside the reference's splice of the same ids. */
#ifndef MR3D_DRIFT_SPLICE_H
#define MR3D_DRIFT_SPLICE_H

#include "align.h"
#include "mr3d/model.h"

typedef struct mr3d_weights mr3d_weights;

/**
 * Whether step 0 of a trace was spliced otherwise than by the reference: `looks` names the mistakes that splice so, "" where none is known, `text` is a line for people.
 * False also where the trace does not tell: it needs input_ids [1,T] of the prompt with both markers, in one call with inputs_embeds and point_token_mask; and where a row is
 * neither a row of the embedding of one of these ids nor, by their number, one of a point's features. The order of the points does not show.
 */
bool mr3d_splice_differs(const mr3d_aligned *, const mr3d_config *, mr3d_weights *, char looks[200], char text[700]);

#endif
