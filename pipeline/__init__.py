"""How a row becomes a gradient: data -> embedding -> arch -> heads -> loss -> metrics, and the training around them."""
