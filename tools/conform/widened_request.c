#include "widened_request.h"

#include <string.h>

#include "mr3d/format.h"

mr3d_bundle *mr3d_widened_request(const mr3d_bundle *request, bool widened) {
  mr3d_bundle *wide = mr3d_bundle_new();
  for (int i = 0; i < mr3d_bundle_meta_count(request); i++) {
    const char *key, *value;
    mr3d_bundle_meta_at(request, i, &key, &value);
    mr3d_bundle_set(wide, key, widened && strcmp(key, "tier") == 0 ? mr3d_tier_name(MR3D_FP64) : value);
  }
  for (int i = 0; i < mr3d_bundle_count(request); i++) {
    const mr3d_tensor *tensor = mr3d_bundle_at(request, i);
    if (widened && mr3d_dtype_is_float(tensor->dtype) && tensor->dtype != MR3D_F64)
      mr3d_tensor_to_double(tensor, mr3d_bundle_add_unset(wide, tensor->name, MR3D_F64, tensor->rank, tensor->shape)->data);
    else mr3d_bundle_borrow(wide, tensor->name, tensor->dtype, tensor->rank, tensor->shape, tensor->data);
  }
  return wide;
}
