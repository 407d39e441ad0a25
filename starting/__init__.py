"""How a command begins: one function a command, which imports it and runs it. Everybody else imports what they need."""
