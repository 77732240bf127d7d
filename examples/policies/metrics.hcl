# Prometheus: the metrics of the mount, and nothing else. There is no secret in them.

path "kensho/metrics" {
  capabilities = ["read"]
}
