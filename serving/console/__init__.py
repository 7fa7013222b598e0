"""The web page of analysts and engineers. It shows and asks: every rule lives behind the APIs of the parts."""
