"""The only place where protobuf meets the domain; one file per service."""
