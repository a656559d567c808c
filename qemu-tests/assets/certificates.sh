# A private CA and a server certificate for the addresses at which a guest
# finds the host: ca.pem · server.pem · server.key
set -eu
. qemu-tests/assets/lib.sh

inputs() { date +%Y; } # valid for two years, so renewed before it ends

make() {
    need openssl openssl
    cd "$1"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 730 \
        -subj '/CN=Plywood test CA' -addext 'basicConstraints=critical,CA:TRUE' \
        -addext 'keyUsage=critical,keyCertSign' -keyout ca.key -out ca.pem 2>openssl.log
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj '/CN=Plywood test registry' -keyout server.key -out server.csr 2>>openssl.log
    cat >server.ext <<EXT
basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth
subjectAltName = IP:10.0.2.2, IP:127.0.0.1, IP:::1, IP:fec0::2, DNS:registry.test
EXT
    openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 730 \
        -extfile server.ext -out server.pem 2>>openssl.log
    rm -f ca.key ca.srl server.csr server.ext openssl.log
}

"$@"
