#!/bin/sh
# HAProxy as Ray Serve starts it, with its statistics and metrics on loopback: Ray 2.60 binds both to all interfaces,
# whatever host is configured, and opens the administration socket to every user of the machine.
# RAGRAY_HAPROXY names the real program; see throughput.py.
set -eu
config=
before=
for argument in "$@"; do
    if [ "$before" = -f ]; then config=$argument; fi
    before=$argument
done
if [ -n "$config" ]; then
    sed -i -E \
        -e '/^(frontend prometheus|listen stats)[[:space:]]*$/,/bind /s/bind \*?:/bind 127.0.0.1:/' \
        -e 's/^([[:space:]]*stats socket .*) mode 666 /\1 mode 600 /' \
        "$config"
fi
# It ends with the process of Serve that started it, also one that was killed: nobody else would take it off the port.
if command -v setpriv >/dev/null; then exec setpriv --pdeathsig TERM -- "$RAGRAY_HAPROXY" "$@"; fi
exec "$RAGRAY_HAPROXY" "$@"
