#!/bin/bash
# Makes the cluster's certificates and kubeconfigs: pki.sh DIR NODE ADDRESS
#
# One authority for everything: who is who is told by the names. All is valid
# for a day; each run makes its own.
set -euo pipefail

dir=$1 node=$2 address=$3
mkdir -p "$dir"
cd "$dir"
umask 077

key() { openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

# certificate FILE SUBJECT EXTENSIONS
certificate() {
  key "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 1 \
    -extfile <(printf 'keyUsage=digitalSignature\n%s\n' "$3") -out "$1.crt" 2>/dev/null
  rm "$1.csr"
}

# client FILE SUBJECT: a certificate, and a kubeconfig that has it.
client() {
  certificate "$1" "$2" extendedKeyUsage=clientAuth
  cat >"$1.kubeconfig" <<END
apiVersion: v1
kind: Config
current-context: cluster
contexts:
  - name: cluster
    context: {cluster: cluster, user: user}
clusters:
  - name: cluster
    cluster:
      server: https://$address:6443
      certificate-authority-data: $(base64 -w0 ca.crt)
users:
  - name: user
    user:
      client-certificate-data: $(base64 -w0 "$1.crt")
      client-key-data: $(base64 -w0 "$1.key")
END
}

key ca.key
openssl req -x509 -new -key ca.key -subj /CN=cluster -days 1 -out ca.crt \
  -addext keyUsage=critical,keyCertSign,cRLSign
certificate apiserver /CN=kube-apiserver "extendedKeyUsage=serverAuth
subjectAltName=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,IP:10.96.0.1,IP:127.0.0.1,IP:$address"
client admin /O=system:masters/CN=admin
client controller-manager /CN=system:kube-controller-manager
client scheduler /CN=system:kube-scheduler
client proxy /CN=system:kube-proxy
client kubelet "/O=system:nodes/CN=system:node:$node"
# Of the tokens of service accounts.
openssl genrsa -out tokens.key 2048 2>/dev/null
openssl rsa -in tokens.key -pubout -out tokens.pub 2>/dev/null
