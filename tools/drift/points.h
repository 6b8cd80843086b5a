/** The points of a trace (docs/protocol.md, "Traces"): which operator gives each of them, from which others. */
#ifndef MR3D_DRIFT_POINTS_H
#define MR3D_DRIFT_POINTS_H

#include <stdbool.h>
#include <stdint.h>

/** Points of a layer in order, then those of the model. */
typedef enum mr3d_point_number {
  MR3D_P_INPUT, MR3D_P_INPUT_NORM, MR3D_P_QUERY, MR3D_P_KEY, MR3D_P_VALUE, MR3D_P_QUERY_ROTATED, MR3D_P_KEY_ROTATED, MR3D_P_VISIBLE, MR3D_P_CONTEXT, MR3D_P_O_PROJ,
  MR3D_P_ATTENTION_RESIDUAL, MR3D_P_POST_ATTENTION_NORM, MR3D_P_GATE, MR3D_P_UP, MR3D_P_GATED, MR3D_P_DOWN, MR3D_P_OUTPUT,
  MR3D_N_LAYER_POINTS,
  MR3D_P_EMBEDS = MR3D_N_LAYER_POINTS, MR3D_P_CACHE_LENGTH, MR3D_P_FINAL_NORM, MR3D_P_LOGITS,
  MR3D_N_POINTS
} mr3d_point_number;

/** [B,q,n]; [B,H,q,D]; [B,G,q,D]; [B,q,K] BOOL; [1] I64. */
typedef enum mr3d_point_form { MR3D_FORM_ROWS, MR3D_FORM_QUERY_HEADS, MR3D_FORM_KEY_HEADS, MR3D_FORM_VISIBLE, MR3D_FORM_LENGTH } mr3d_point_form;

typedef struct mr3d_point_about {
  const char *name;
  const char *op;     /**< "linear", "mixed_rope", "residual" ...: what gives its values */
  const char *part;   /**< in words: "the query projection (q_proj)" */
  mr3d_point_form form;
  int inputs[4];      /**< points that the operator reads, -1 at the end */
} mr3d_point_about;

extern const mr3d_point_about mr3d_points_about[MR3D_N_POINTS];

/** Its number, or -1. */
int mr3d_point_named(const char *name);

#endif
