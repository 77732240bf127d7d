variable "client_id" {
  description = "The Client ID that Kensho answered the public key with."
  type        = string
}

variable "private_key" {
  description = "The private key, in PEM."
  type        = string
  sensitive   = true
}

variable "token_url" {
  description = "Where assertions are traded for tokens, if not at Kensho's own URL: through a gateway, or at a test system."
  type        = string
  default     = ""
}
