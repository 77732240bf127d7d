# For those who send people the links to consent: begin a consent to any credential, and see who has
# consented and who must. This policy cannot read a token or change a credential.
#
# The holder decides which person gets the link, and so whose account a credential acts for.

path "saas/authorize/*" {
  capabilities = ["read", "update"]
}

path "saas/status/*" {
  capabilities = ["read", "list"]
}
