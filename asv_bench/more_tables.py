#!/usr/bin/env python3
"""Write more tables for tables.py, the target in the last column, from clones of collections on GitHub.

    pip install pandas
    git clone --depth 1 https://github.com/jbrownlee/Datasets
    git clone --depth 1 https://github.com/vincentarelbundock/Rdatasets
    python more_tables.py Datasets Rdatasets FOLDER
    python tables.py --half confirm FOLDER/*.csv

Columns that number the rows, or give the target away, are left out, and of long tables all but 12,000 rows.
"""

import argparse
import io
import re
import zipfile
from pathlib import Path

import pandas as pd

MAX_ROWS = 12_000

# Of jbrownlee/Datasets: files without header whose target is the last column.
PLAIN = {
    "banknote": "banknote_authentication",
    "ionosphere": "ionosphere",
    "phoneme": "phoneme",
    "oil_spill": "oil-spill",
    "pima": "pima-indians-diabetes",
    "ecoli": "ecoli",
    "glass": "glass",
    "mammography": "mammography",
    "wheat_seeds": "wheat-seeds",
    "winequality_white": "winequality-white",
    "adult": "adult-train",
}
# Of the archives of ARFF files there: archive and member; the target is the last attribute.
ARFF = {
    "vote": ("weka-datasets", "data/vote"),
    "segment": ("weka-datasets", "data/segment-challenge"),
    "hypothyroid": ("weka-datasets", "data/hypothyroid"),
    "soybean": ("weka-datasets", "data/soybean"),
    "autohorse": ("weka-datasets-numeric", "numeric/autoHorse"),
    "bodyfat": ("weka-datasets-numeric", "numeric/bodyfat"),
    "cleveland": ("weka-datasets-numeric", "numeric/cleveland"),
    "pbc": ("weka-datasets-numeric", "numeric/pbc"),
    "meta": ("weka-datasets-numeric", "numeric/meta"),
    "strike": ("weka-datasets-numeric", "numeric/strike"),
    "quake": ("weka-datasets-numeric", "numeric/quake"),
    "fishcatch": ("weka-datasets-numeric", "numeric/fishcatch"),
    "sensory": ("weka-datasets-numeric", "numeric/sensory"),
    "pwlinear": ("weka-datasets-numeric", "numeric/pwLinear"),
}
# Of vincentarelbundock/Rdatasets: file, target, and columns that are left out.
WITH_NAMES = {
    "oj": ("ISLR/OJ", "Purchase", ()),
    "default": ("ISLR/Default", "default", ()),
    "arrests": ("carData/Arrests", "released", ()),
    "spam7": ("DAAG/spam7", "yesno", ()),
    "hmda": ("AER/HMDA", "deny", ()),
    "creditcard": ("AER/CreditCard", "card", ("expenditure", "share")),
    "smokeban": ("AER/SmokeBan", "smoker", ()),
    "hawks": ("Stat2Data/Hawks", "Species", ("BandNumber",)),
    "wage": ("ISLR/Wage", "wage", ("logwage",)),
    "college": ("ISLR/College", "Grad.Rate", ()),
    "carseats": ("ISLR/Carseats", "Sales", ()),
    "caschools": ("AER/CASchools", "math", ("read", "district", "school")),
    "computers": ("Ecdat/Computers", "price", ()),
    "cps1988": ("AER/CPS1988", "wage", ()),
    "sacramento": ("modeldata/Sacramento", "price", ()),
    "ames": ("modeldata/ames", "Sale_Price", ()),
    "attrition": ("modeldata/attrition", "Attrition", ()),
    "cells": ("modeldata/cells", "class", ("case",)),
    "concrete": ("modeldata/concrete", "compressive_strength", ()),
    "credit_data": ("modeldata/credit_data", "Status", ()),
    "hpc": ("modeldata/hpc_data", "class", ()),
    "mlc_churn": ("modeldata/mlc_churn", "churn", ()),
    "stackoverflow": ("modeldata/stackoverflow", "Remote", ()),
    "wa_churn": ("modeldata/wa_churn", "churn", ()),
    "leaf": ("modeldata/leaf_id_flavia", "species", ()),
    "lending_club": ("modeldata/lending_club", "int_rate", ()),
    "taxi": ("modeldata/taxi", "tip", ()),
    "hotel_rates": ("modeldata/hotel_rates", "avg_price_per_room", ()),
    "cat_adoption": ("modeldata/cat_adoption", "event", ("time",)),
    "saratoga": ("mosaicData/SaratogaHouses", "price", ()),
    "airbnb": ("bayesrules/airbnb", "price", ()),
    "chile": ("carData/Chile", "vote", ()),
    "cars04": ("openintro/cars04", "city_mpg", ("name", "hwy_mpg")),
    "bdims": ("openintro/bdims", "wgt", ()),
    "flchain": ("survival/flchain", "death", ("futime", "chapter")),
}
ATTRIBUTE = re.compile(r"(?i)@attribute\s+('[^']+'|\"[^\"]+\"|\S+?)(?=[\s{])")


def read_plain(path):
    table = pd.read_csv(path, header=None, na_values=["?"], skipinitialspace=True)
    table.columns = [f"c{i}" for i in range(table.shape[1])]
    return table, table.columns[-1]


def read_arff(archive, member):
    text = zipfile.ZipFile(archive).read(member).decode("latin1")
    head, data = re.split(r"(?im)^@data.*$", text, maxsplit=1)
    names = [found[1].strip("'\"") for line in head.splitlines() if (found := ATTRIBUTE.match(line.strip()))]
    rows = "\n".join(line for line in data.splitlines() if line.strip() and not line.startswith("%"))
    table = pd.read_csv(io.StringIO(rows), header=None, na_values=["?"], quotechar="'", skipinitialspace=True)
    table.columns = names[: table.shape[1]]
    return table, table.columns[-1]


def read_with_names(path, target, others):
    table = pd.read_csv(path, low_memory=False)
    return table.drop(columns=["rownames", *others], errors="ignore"), target


def tables(datasets, rdatasets):
    """Yield the name of each table, the table and its target."""
    for name, file in PLAIN.items():
        yield name, *read_plain(datasets / f"{file}.csv")
    for name, (archive, member) in ARFF.items():
        yield name, *read_arff(datasets / f"{archive}.zip", f"{member}.arff")
    for name, (file, target, others) in WITH_NAMES.items():
        yield name, *read_with_names(rdatasets / "csv" / f"{file}.csv", target, others)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets", type=Path)
    parser.add_argument("rdatasets", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, table, target in tables(options.datasets, options.rdatasets):
        table = table[table[target].notna()]
        if len(table) > MAX_ROWS:
            table = table.sample(MAX_ROWS, random_state=0)
        table = table[[*table.columns.drop(target), target]]
        table.to_csv(options.folder / f"{name}.csv", index=False)
        print(f"{name}: {table.shape[0]} rows, {table.shape[1]} columns")


if __name__ == "__main__":
    main()
