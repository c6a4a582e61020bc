"""What goes wrong on purpose: errors of servers, lost answers, kills."""
