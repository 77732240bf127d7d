variable "client_id" {
  description = "The Client ID that Kensho issued for the public key."
  type        = string
}

variable "private_key" {
  description = "The private key, in PEM."
  type        = string
  sensitive   = true
}

variable "token_url" {
  description = "The URL of a gateway or test system to use instead of Kensho's token URL."
  type        = string
  default     = ""
}
