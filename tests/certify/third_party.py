"""A certificate before other people's eyes: securesystemslib checks the envelope, in-toto's own library statement and predicate.

    python tests/certify/third_party.py CERTIFICATE KEY.pub [KEY.pub ...]

Every key must have signed. Needs securesystemslib, cryptography and in-toto-attestation; nothing of this project is imported.
"""

import base64
import copy
import gzip
import hashlib
import json
import sys

from google.protobuf import json_format
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

EXTENSION = "urn:x-mr3d:certificate:v1"


def refused(envelope, keys):
    """Whether the library refuses the envelope under these keys."""
    try:
        envelope.verify(keys, len(keys))
    except VerificationError:
        return True
    return False


def merkle_root(leaves):
    """RFC 6962, once more."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    left = 1
    while 2 * left < len(leaves):
        left *= 2
    return hashlib.sha256(b"\1" + merkle_root(leaves[:left]) + merkle_root(leaves[left:])).digest()


def main(certificate, *key_files):
    """Raises where anything is not as it should be."""
    with open(certificate, encoding="utf-8") as file:
        data = json.load(file)
    keys = []
    for path in key_files:
        with open(path, encoding="utf-8") as file:
            fields = json.load(file)
        keys.append(SSlibKey.from_dict(fields.pop("keyid"), fields))
    envelope = Envelope.from_dict(copy.deepcopy(data))
    envelope.verify(keys, len(keys))
    assert envelope.payload_type == "application/vnd.in-toto+json"
    assert envelope.to_dict() == data, "the library writes the envelope as mr3d does"

    changed = Envelope.from_dict(copy.deepcopy(data))
    changed.payload = changed.payload.replace(b"passed", b"PASSED", 1)
    assert refused(changed, keys), "a changed payload must be refused: else this check proves nothing"

    content = json.loads(envelope.payload)
    statement = Statement.copy_from_pb(json_format.ParseDict(content, Statement([], "", {}).pb))
    statement.validate()
    assert statement.pb.predicate_type == "https://in-toto.io/attestation/test-result/v0.1"
    for subject in statement.pb.subject:
        ResourceDescriptor.copy_from_pb(subject).validate()

    predicate = {key: value for key, value in content["predicate"].items() if key != EXTENSION}
    result = json_format.ParseDict(predicate, test_result_pb2.TestResult())  # unknown fields are errors here
    for resource in result.configuration:
        ResourceDescriptor.copy_from_pb(resource).validate()
    ours = content["predicate"][EXTENSION]
    assert result.result == {"certificate": ("PASSED", "WARNED")[bool(ours["counts"]["waived"])], "report of failure": "FAILED"}[ours["kind"]]
    leaves = gzip.decompress(base64.b64decode(ours["results"]["leaves"])).splitlines()
    assert merkle_root(leaves).hex() == ours["results"]["root"]
    assert len(leaves) == ours["counts"]["tests"]
    passed = [leaf.decode().split()[0] for leaf in leaves if leaf.split(b"|")[0].endswith(b" passed")]
    listed = [test for name in predicate["passedTests"] for test in passed if test == name or test.startswith(name + "@")]
    assert listed == passed and len(passed) == ours["counts"]["passed"], "passedTests: of a case all of whose tests passed the case, else each test"
    print(f"{certificate}: {len(keys)} signatures, statement and predicate hold; {ours['verdict']}, {len(leaves)} tests")


if __name__ == "__main__":
    main(*sys.argv[1:])
