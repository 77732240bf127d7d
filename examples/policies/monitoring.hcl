# Monitoring: whether each credential works, and when it will need a person. There is
# no secret under status/.

path "kensho/status/*" {
  capabilities = ["read", "list"]
}
