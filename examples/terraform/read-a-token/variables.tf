variable "token_path" {
  description = "The path of the token in Vault: the output token_path of the example above this folder."
  type        = string
  default     = "kensho/token/link-reports"
}

variable "api_url" {
  description = "The URL of the vendor's API to call."
  type        = string
}
