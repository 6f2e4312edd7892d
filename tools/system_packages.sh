#!/usr/bin/env bash
# Programs of Debian and Ubuntu that the tests of the exports check them with. Needs root.
#
#   dicom3tools  dciodvfy, dcentvfy: is a DICOM file what the standard says
#   dcmtk        dcmdump, dcm2xml: an independent reader of DICOM
#   medcon       (X)MedCon: an independent reader of Interfile
#   orthanc      a PACS, started by the test for itself and stopped again
#
# Without them those tests are skipped, each with its reason. SynthCT itself needs none of them.
set -euo pipefail

packages=(dicom3tools dcmtk medcon orthanc)
missing=()
for package in "${packages[@]}"; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "Installed already: ${packages[*]}"
    exit 0
fi

# Orthanc's package would start a server on its own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
echo "Installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
