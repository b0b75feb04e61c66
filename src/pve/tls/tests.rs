//! Tests of the transport over TLS.
