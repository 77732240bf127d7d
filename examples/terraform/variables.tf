variable "client_id" {
  description = "The Client ID that Kensho issued for the public key."
  type        = string
}

variable "private_key" {
  description = "The private key, in PEM. Needed only for the first apply and when private_key_version changes."
  type        = string
  default     = null
  ephemeral   = true
  sensitive   = true
}

variable "private_key_version" {
  description = "A number to raise when private_key changes."
  type        = number
  default     = 1
}

variable "token_url" {
  description = "The URL of a gateway or test system to use instead of Kensho's token URL."
  type        = string
  default     = ""
}
