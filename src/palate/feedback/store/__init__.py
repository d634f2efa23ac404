"""The database: its tables and how they change, and the plain things in it (people, policies, rounds).

What is done with them, and every rule about judgements, belongs to the other rooms.
"""
