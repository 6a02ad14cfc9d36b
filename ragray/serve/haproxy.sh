#!/bin/sh
# HAProxy as Ray Serve starts it, with what Ray 2.60 has no setting for:
# - statistics and metrics on loopback: Ray binds both to all interfaces, whatever host is configured, and opens the
#   administration socket to every user of the machine;
# - a request is sent on once its body is here: only what was sent in one go can be sent again to another replica, and
#   most clients send head and body apart. So HAProxy itself has to end bodies that do not come;
# - errors in the shape of the API.
# RAGRAY_HAPROXY names the real program, RAGRAY_HAPROXY_REQUEST_TIMEOUT how long a request may take to arrive; see
# throughput.py.
set -eu
config=
before=
for argument in "$@"; do
    if [ "$before" = -f ]; then config=$argument; fi
    before=$argument
done
error() { # message, type and code
    printf '%s' "content-type application/json string '{\"error\":{\"message\":\"$1\",\"type\":\"$2\",\"param\":null,\"code\":\"$3\"}}'"
}
if [ -n "$config" ]; then
    late=$(error "the request took too long to arrive" invalid_request_error body_timeout)
    restarting=$(error "a part of the server is restarting; try again" server_error restarting)
    sed -i -E \
        -e '/^(frontend prometheus|listen stats)[[:space:]]*$/,/bind /s/bind \*?:/bind 127.0.0.1:/' \
        -e 's/^([[:space:]]*stats socket .*) mode 666 /\1 mode 600 /' \
        -e "s#^([[:space:]]*)errorfile (50[234]) .*#\1http-error status \2 $restarting hdr retry-after 2#" \
        "$config"
    if ! grep -q http-buffer-request "$config"; then
        sed -i "/^defaults\$/a\\
    option http-buffer-request\\
    option http-ignore-probes\\
    timeout http-request ${RAGRAY_HAPROXY_REQUEST_TIMEOUT:-10s}\\
    timeout http-keep-alive 3600s\\
    http-error status 408 $late" "$config"
    fi
fi
# It ends with the process of Serve that started it, also one that was killed: nobody else would take it off the port.
if command -v setpriv >/dev/null; then exec setpriv --pdeathsig TERM -- "$RAGRAY_HAPROXY" "$@"; fi
exec "$RAGRAY_HAPROXY" "$@"
