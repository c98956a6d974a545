"""`lrbench results`: the results in the workspace, and results that travel, one file per group of verbs."""

from lrbench.cli.results import listing, receiving, removing, sending, showing
from lrbench.cli.usage import Commands

app = Commands(help="List, show, send, receive and remove results.")
app.command("list")(listing.list_)
app.command("show")(showing.show_)
app.command("push")(sending.push)
app.command("submit")(sending.submit)
app.command("fetch")(receiving.fetch)
app.command("merge")(receiving.merge)
app.command("remove")(removing.remove)
