"""What a person does: the session, its files on the server, the page. No models, no arithmetic on pictures."""
