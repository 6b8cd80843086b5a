/** `point_config`: the sizes of the point encoders (encoders.md), read from a configuration's JSON. */
#ifndef MR3D_IO_POINT_CONFIG_H
#define MR3D_IO_POINT_CONFIG_H

#include "json.h"
#include "mr3d/config.h"

/**
 * Reads what the object (NULL: none) holds over the public encoders' sizes; `stride` and `enc_patch_size` that are absent are 2 and 1024 for each
 * stage that `enc_depths` has.
 *
 * Errors (MR3D_INVALID): another value than an object; a misspelt key; a value of another type or out of range; an order that is unknown;
 * shuffle_orders, enable_rpe and others with a value that is not computed here.
 */
mr3d_status mr3d_point_config_read(const cJSON *object, mr3d_point_config *, mr3d_error *);

#endif
